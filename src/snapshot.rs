//! `kontiki snapshot`: save a running member's data to a file, look at such a file, and begin a new cluster with it.
//!
//! The file is etcd's own format, so it may come from etcd and go to etcd, and the flags are those of `etcdctl` and
//! `etcdutl`.

use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kontiki_api::etcdserverpb as pb;
use kontiki_api::etcdserverpb::maintenance_client::MaintenanceClient;
use kontiki_store::bolt::status::{self, Status};
use kontiki_store::bolt::{Db, trailer};
use kontiki_store::config::identity::{self, Place};
use kontiki_store::config::url::Url;
use kontiki_store::ids::MemberId;
use kontiki_store::io::restore::{Restore, restore};
use kontiki_store::member::Peer;

use crate::etcd::{Access, Connection};
use crate::net;

/// `kontiki snapshot`.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Clone, Debug)]
enum Command {
    /// Save the data of a running member, Kontiki's or etcd's, to a file.
    Save(Save),
    /// Check a file and say what it holds.
    Status(StatusOf),
    /// Make a member's data directory from a file; every member of the new cluster from the same file.
    Restore(RestoreTo),
}

#[derive(clap::Args, Clone, Debug)]
struct Save {
    /// The member to ask.
    #[arg(long, env = "ETCDCTL_ENDPOINTS", default_value = "http://127.0.0.1:2379")]
    endpoints: String,
    #[command(flatten)]
    access: Access,
    file: PathBuf,
}

#[derive(clap::Args, Clone, Debug)]
struct StatusOf {
    /// How to print it.
    #[arg(short = 'w', long, visible_alias = "output", default_value = "table")]
    write_out: Format,
    file: PathBuf,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Format {
    Simple,
    Json,
    Table,
}

#[derive(clap::Args, Clone, Debug)]
struct RestoreTo {
    /// A snapshot, or `member/snap/db` of an etcd that was stopped properly (with --skip-hash-check).
    file: PathBuf,
    /// The directory to make; must be empty or missing [default: NAME.etcd].
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Where the log goes; must be missing [default: inside the data directory].
    #[arg(long)]
    wal_dir: Option<PathBuf>,
    /// The name of this member.
    #[arg(long, default_value = "default")]
    name: String,
    /// All members of the new cluster: name=url,name=url [default: this member alone].
    #[arg(long, default_value = "")]
    initial_cluster: String,
    /// Tells the new cluster from others with the same members.
    #[arg(long, default_value = "etcd-cluster")]
    initial_cluster_token: String,
    /// Where the other members reach this one.
    #[arg(long, default_value = "http://localhost:2380")]
    initial_advertise_peer_urls: String,
    /// Do not compare the file with its sum; needed for a file without one.
    #[arg(long)]
    skip_hash_check: bool,
    /// How many revisions to skip, so that clients never see revisions go back.
    #[arg(long, default_value_t = 0)]
    bump_revision: u32,
    /// Count everything before as compacted, so that watchers notice; goes with --bump-revision.
    #[arg(long)]
    mark_compacted: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Command::Save(arguments) => net::current_thread()?.block_on(save(arguments)),
        Command::Status(arguments) => print_status(arguments),
        Command::Restore(arguments) => restore_to(arguments),
    }
}

async fn save(arguments: &Save) -> Result<()> {
    let Save { endpoints, access, file } = arguments;
    ensure!(!endpoints.contains(','), "snapshot must be requested to one selected node, not multiple {endpoints}");
    let connection = access.connect(endpoints).await?;
    let mut part = file.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let saved = fetch(MaintenanceClient::new(connection), &part).await;
    if saved.is_err() {
        // What led here is the error to tell.
        let _ = fs::remove_file(&part);
    }
    let version = saved?;
    fs::rename(&part, file).with_context(|| format!("could not rename {} to {}", part.display(), file.display()))?;
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).with_context(|| format!("cannot sync {}", parent.display()))?;
    println!("Snapshot saved at {}", file.display());
    if !version.is_empty() {
        println!("Server version {version}");
    }
    Ok(())
}

/// Receives, checks and syncs; answers the version that the server told.
async fn fetch(mut client: MaintenanceClient<Connection>, part: &Path) -> Result<String> {
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(part);
    let file = file.as_mut().map_err(|error| anyhow::anyhow!("could not open {}: {error}", part.display()))?;
    let mut stream = client.snapshot(pb::SnapshotRequest {}).await.context("cannot fetch a snapshot")?.into_inner();
    let mut progress = Progress { shown: Instant::now(), terminal: std::io::stderr().is_terminal() };
    let (mut size, mut version) = (0, String::new());
    while let Some(message) = stream.message().await.context("the snapshot broke off")? {
        file.write_all(&message.blob).with_context(|| format!("could not write {}", part.display()))?;
        size += message.blob.len() as u64;
        version = message.version;
        progress.show(size, size + message.remaining_bytes);
    }
    ensure!(trailer::is_present(size), "sha256 checksum not found [bytes: {size}]");
    file.sync_all().context("could not fsync snapshot")?;
    trailer::verify(&File::open(part)?).context("the snapshot did not arrive as it was sent")?;
    Ok(version)
}

/// A line a second: in place on a terminal.
struct Progress {
    shown: Instant,
    terminal: bool,
}

impl Progress {
    fn show(&mut self, done: u64, all: u64) {
        if self.shown.elapsed() < Duration::from_secs(1) {
            return;
        }
        self.shown = Instant::now();
        let end = if self.terminal { "\r" } else { "\n" };
        eprint!("{} of {} received{end}", size(done), size(all));
    }
}

fn print_status(arguments: &StatusOf) -> Result<()> {
    let path = arguments.file.display();
    let file = File::open(&arguments.file).with_context(|| format!("{path}"))?;
    let status = status::status(&Db::open(&file).with_context(|| format!("{path}"))?)?;
    println!("{}", text(&status, arguments.write_out)?);
    Ok(())
}

fn text(status: &Status, format: Format) -> Result<String> {
    let row = [
        format!("{:x}", status.hash),
        status.revision.to_string(),
        status.total_key.to_string(),
        size(status.total_size),
        status.version.clone(),
    ];
    Ok(match format {
        Format::Simple => row.join(", "),
        Format::Json => serde_json::to_string(status)?,
        Format::Table => table(["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE", "VERSION"], &row),
    })
}

/// As etcd's tools of 3.6 draw one.
fn table(head: [&str; 5], row: &[String; 5]) -> String {
    let widths = [0, 1, 2, 3, 4].map(|i| head[i].len().max(row[i].len()));
    let rule: String = widths.iter().map(|width| format!("+{}", "-".repeat(width + 2))).collect::<String>() + "+";
    let head: String = head.iter().zip(widths).map(|(cell, width)| format!("| {cell:^width$} ")).collect();
    let row: String = row.iter().zip(widths).map(|(cell, width)| format!("| {cell:>width$} ")).collect();
    format!("{rule}\n{head}|\n{rule}\n{row}|\n{rule}")
}

/// `20 kB`, `1.5 MB`: steps of a thousand, two digits at least.
fn size(bytes: u64) -> String {
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64, 0);
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let value = (value * 10.0 + 0.5).floor() / 10.0;
    match value < 10.0 {
        true => format!("{value:.1} {}", UNITS[unit]),
        false => format!("{value:.0} {}", UNITS[unit]),
    }
}

fn restore_to(arguments: &RestoreTo) -> Result<()> {
    if arguments.mark_compacted != (arguments.bump_revision > 0) {
        bail!("--mark-compacted required if --bump-revision > 0");
    }
    let data_dir = arguments.data_dir.clone().unwrap_or_else(|| PathBuf::from(format!("{}.etcd", arguments.name)));
    let member = member_of(arguments)?;
    let added =
        |(id, peer): (&MemberId, &Peer)| format!("added member {id} ({}) at {}", peer.name, peer.peer_urls.join(","));
    let added: Vec<String> = member.peers.iter().map(added).collect();
    let imported = restore(&Restore {
        snapshot: arguments.file.clone(),
        data_dir: data_dir.clone(),
        wal_dir: arguments.wal_dir.clone(),
        id: member.id,
        cluster_id: member.cluster_id,
        peers: member.peers,
        skip_hash_check: arguments.skip_hash_check,
        bump_revision: arguments.bump_revision.into(),
        mark_compacted: arguments.mark_compacted,
    })?;
    added.iter().for_each(|line| println!("{line}"));
    println!(
        "restored {} records and {} leases at revision {} into {} (member {}, cluster {})",
        imported.records,
        imported.leases,
        imported.revision,
        data_dir.display(),
        member.id,
        member.cluster_id
    );
    Ok(())
}

/// The place in the new cluster that `kontiki store` will have when it is started with the same flags.
fn member_of(arguments: &RestoreTo) -> Result<Place> {
    let RestoreTo { name, initial_cluster, initial_cluster_token, initial_advertise_peer_urls, .. } = arguments;
    let advertised = Url::parse_list(initial_advertise_peer_urls)
        .map_err(|error| anyhow::anyhow!("--initial-advertise-peer-urls: {error}"))?;
    Ok(identity::place(name, &advertised, initial_cluster, initial_cluster_token)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_etcds_tools_print_them() {
        let sizes = [9, 999, 1000, 20_480, 1_048_576, 82_854_982].map(size);
        assert_eq!(sizes, ["9 B", "999 B", "1.0 kB", "20 kB", "1.0 MB", "83 MB"]);
    }

    #[test]
    fn a_status_is_printed_as_etcds_tools_do() {
        let status =
            Status { hash: 0xae6b_9c0c, revision: 4, total_key: 3, total_size: 20_480, version: "3.6.0".into() };
        assert_eq!(text(&status, Format::Simple).unwrap(), "ae6b9c0c, 4, 3, 20 kB, 3.6.0");
        let json = r#"{"hash":2926287884,"revision":4,"totalKey":3,"totalSize":20480,"version":"3.6.0"}"#;
        assert_eq!(text(&status, Format::Json).unwrap(), json);
        let table = "\
+----------+----------+------------+------------+---------+
|   HASH   | REVISION | TOTAL KEYS | TOTAL SIZE | VERSION |
+----------+----------+------------+------------+---------+
| ae6b9c0c |        4 |          3 |      20 kB |   3.6.0 |
+----------+----------+------------+------------+---------+";
        assert_eq!(text(&status, Format::Table).unwrap(), table);
    }
}
