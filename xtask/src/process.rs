//! Child processes: how cargo is called, how a failure is told.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

/// What went wrong, as a sentence.
pub struct Failure(String);

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says what happens now.
pub fn step(what: &str) {
    eprintln!("==> {what}");
}

/// Runs to the end with the terminal of this process.
pub fn run(command: &mut Command) -> Result<(), Failure> {
    let line = line(command);
    let status = command.status().map_err(|error| Failure::new(format!("cannot run {line}: {error}")))?;
    if status.success() { Ok(()) } else { Err(Failure::new(format!("{line}: {status}"))) }
}

/// Runs to the end and gives its output; what it complains goes to the terminal.
pub fn output(command: &mut Command) -> Result<String, Failure> {
    let line = line(command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure::new(format!("cannot run {line}: {error}")))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Failure::new(format!("{line}: {}", output.status))),
    }
}

/// Like [`run`], and says how long it took.
pub fn timed(what: &str, command: &mut Command) -> Result<(), Failure> {
    step(what);
    let start = Instant::now();
    run(command)?;
    eprintln!("    {what}: {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// `cargo <subcommand>` in the workspace, with RocksDB's C++ behind a compiler cache where there is one.
pub fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace()).arg(subcommand).env("PATH", path_with_tools());
    if on_path("ccache").is_some() && std::env::var_os("CXX").is_none() {
        // Profiles and clones then share one compilation of RocksDB.
        command.env("CXX", "ccache g++").env("CC", "ccache gcc");
    }
    command
}

/// The root of the repository: of the clone that cargo runs this from, which need not be the one it was compiled in
/// when clones share a target directory.
pub fn workspace() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let manifest = PathBuf::from(manifest);
    manifest.parent().expect("xtask lies in the workspace").to_owned()
}

/// Where this project keeps what it made outside the repository: images, tools.
pub fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
        .unwrap_or_else(|| PathBuf::from("/var/cache"));
    base.join("kontiki")
}

/// The folder of programs that are unpacked rather than installed.
pub fn tools() -> PathBuf {
    cache().join("tools/usr/bin")
}

/// `PATH` with [`tools`] at its end.
pub fn path_with_tools() -> OsString {
    let mut paths: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    paths.push(tools());
    std::env::join_paths(paths).unwrap_or_else(|_| std::env::var_os("PATH").unwrap_or_default())
}

/// Where a program lies on [`path_with_tools`].
pub fn on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&path_with_tools()).map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    words.join(" ")
}
