//! What the subcommands share about addresses and names.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};

/// Whether the program was started under the name `etcd`.
pub fn is_named_etcd(arguments: &[OsString]) -> bool {
    arguments.first().is_some_and(|program| Path::new(program).file_name() == Some("etcd".as_ref()))
}

/// Why an address cannot be listened on, with who holds it.
pub fn cannot_listen(address: SocketAddr, error: io::Error) -> anyhow::Error {
    let holder = (error.kind() == io::ErrorKind::AddrInUse).then(|| holder(address.port())).flatten();
    match holder {
        Some(pid) => anyhow::anyhow!("cannot listen on {address}: address in use (pid {pid})"),
        None => anyhow::Error::new(error).context(format!("cannot listen on {address}")),
    }
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

    #[test]
    fn a_link_named_etcd_is_known() {
        let named = |program: &str| is_named_etcd(&[program.into(), "kontiki".into()]);
        assert!(named("/usr/bin/etcd") && named("etcd") && !named("kontiki") && !named("etcd/kontiki"));
    }
}
