//! What the subcommands share about addresses and spelling.

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;

use anyhow::{Context, Result};
use tokio::net::TcpListener;

/// Makes a command line of etcd's one that clap reads: the program's name `etcd` becomes the subcommand `store`, and
/// Go's single-dash long flags (`-name x`) get their second dash.
pub fn etcd_spelling(mut arguments: Vec<OsString>) -> Vec<OsString> {
    let named_etcd = arguments.first().is_some_and(|program| Path::new(program).file_name() == Some("etcd".as_ref()));
    if named_etcd {
        arguments.insert(1, "store".into());
    }
    if arguments.get(1).is_some_and(|command| command == "store") {
        for argument in &mut arguments[2..] {
            let Some(text) = argument.to_str() else { continue };
            let long = text.strip_prefix('-').filter(|rest| rest.len() > 1 && !rest.starts_with('-'));
            if let Some(rest) = long {
                *argument = format!("--{rest}").into();
            }
        }
    }
    arguments
}

/// The addresses of a host name, as the system resolves it.
pub fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut found: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    // `localhost` means 127.0.0.1 to most clients.
    found.sort_by_key(SocketAddr::is_ipv6);
    Ok(found)
}

/// Listens, or says who holds the address.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let holder = (error.kind() == io::ErrorKind::AddrInUse).then(|| holder(address.port())).flatten();
        match holder {
            Some(pid) => anyhow::anyhow!("cannot listen on {address}: address in use (pid {pid})"),
            None => anyhow::Error::new(error).context(format!("cannot listen on {address}")),
        }
    })
}

/// The process that listens on a TCP port of this machine, if this user may see it.
fn holder(port: u16) -> Option<u32> {
    let inode = listening_inode("/proc/net/tcp", port).or_else(|| listening_inode("/proc/net/tcp6", port))?;
    let wanted = format!("socket:[{inode}]");
    std::fs::read_dir("/proc").ok()?.filter_map(Result::ok).find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let descriptors = std::fs::read_dir(entry.path().join("fd")).ok()?;
        let holds =
            |fd: std::fs::DirEntry| std::fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == &*wanted);
        descriptors.filter_map(Result::ok).any(holds).then_some(pid)
    })
}

/// The inode of the listening socket on `port` in a `/proc/net/tcp` table.
fn listening_inode(table: &str, port: u16) -> Option<String> {
    const LISTEN: &str = "0A";
    let local_port = format!(":{port:04X}");
    std::fs::read_to_string(table).ok()?.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (fields.get(1)?.ends_with(&local_port) && *fields.get(3)? == LISTEN)
            .then(|| fields.get(9).map(|i| (*i).to_owned()))?
    })
}

/// This machine's name, as a Node's name must be: lower case.
pub fn host_name() -> Result<String> {
    let name = rustix::system::uname().nodename().to_str().context("the host name is not UTF-8")?.to_lowercase();
    Ok(name)
}

/// A current-thread runtime: on small machines a wake across threads costs more than it gives.
pub fn current_thread() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the async runtime")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: &[&str], expected: &[&str]) {
        let given = given.iter().map(OsString::from).collect();
        let got: Vec<String> = etcd_spelling(given).into_iter().map(|a| a.into_string().unwrap()).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn a_link_named_etcd_is_the_store() {
        check(&["/usr/bin/etcd", "-name", "a"], &["/usr/bin/etcd", "store", "--name", "a"]);
    }

    #[test]
    fn single_dash_flags_are_long_only_for_the_store() {
        check(&["kontiki", "store", "-data-dir=x", "-h"], &["kontiki", "store", "--data-dir=x", "-h"]);
        check(&["kontiki", "dev", "-abc"], &["kontiki", "dev", "-abc"]);
    }
}
