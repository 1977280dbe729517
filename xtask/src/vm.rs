//! The node agent's suites on Debian 12's own kernel, in a virtual machine without a network.
//!
//! A developer's kernel is newer and may have cgroups of version 1; the agent promises to run on Linux 6.1 with version 2
//! alone. The guest is as small as that allows: busybox, the test programs with the libraries they name, and a few modules, on
//! an ext4 disk, with the cgroup tree arranged as systemd arranges it. Needs no root and no KVM.

mod guest;
mod kernel;
mod machine;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Failure, cargo, output, step};
use crate::{ci, setup};
use guest::Suite;
use kernel::Kernel;

/// `cargo xtask vm-test [--kernel DIR] [arguments of the test programs]`
pub fn test(rest: &[String]) -> Result<(), Failure> {
    let (kernel, rest) = match rest {
        [flag, directory, rest @ ..] if flag == "--kernel" => (Some(PathBuf::from(directory)), rest),
        _ => (None, rest),
    };
    if std::env::consts::ARCH != "x86_64" {
        return Err(Failure::new("vm-test knows only x86-64"));
    }
    setup::ensure(setup::VM)?;
    let kernel = match kernel {
        Some(directory) => Kernel::in_directory(&directory)?,
        None => Kernel::of_debian_12()?,
    };
    run(&kernel, rest)
}

/// The same for CI, where a machine whose packages have no such kernel (Ubuntu, another Debian) is told and passed over.
pub fn test_where_possible() -> Result<(), Failure> {
    if std::env::consts::ARCH != "x86_64" {
        step("not run: the suites on Debian 12's kernel, which need an x86-64 machine");
        return Ok(());
    }
    match Kernel::of_debian_12() {
        Ok(kernel) => run(&kernel, &[]),
        Err(failure) => {
            step(&format!("not run: the suites on Debian 12's kernel ({failure})"));
            Ok(())
        }
    }
}

fn run(kernel: &Kernel, arguments: &[String]) -> Result<(), Failure> {
    let suites = build()?;
    step(&format!("virtual machine: Linux {}", kernel.version));
    let guest = guest::make(kernel, &suites, arguments)?;
    machine::run(kernel, &guest)
}

/// Compiles the suites and the shim they start, among what `cargo xtask test` compiles: the agent's package alone would have
/// other features of its dependencies and need all of them once more. Cargo says where they are.
fn build() -> Result<Vec<Suite>, Failure> {
    step("building the node agent's suites");
    let options = ["--no-run", "--message-format", "json-render-diagnostics"];
    let messages = output(cargo("test").args(ci::LIBRARIES).args(options))?;
    let suites: Vec<Suite> = messages.lines().filter_map(artifact).collect();
    match suites.iter().any(|suite| !suite.is_test) && suites.iter().any(|suite| suite.is_test) {
        true => Ok(suites),
        false => Err(Failure::new("cargo named no test programs")),
    }
}

/// Reads one line of cargo's JSON, as far as needed: this crate has no dependency, and neither path nor name has escapes.
fn artifact(line: &str) -> Option<Suite> {
    let text = |line: &str, key: &str| {
        let start = line.find(&format!("\"{key}\":\""))? + key.len() + 4;
        Some(line[start..].split('"').next()?.to_owned())
    };
    let (target, profile) = (&line[line.find("\"target\":")?..], &line[line.find("\"profile\":")?..]);
    let is_ours = text(line, "manifest_path")?.ends_with("/node-agent/Cargo.toml");
    let suite = Suite {
        name: text(target, "name")?,
        program: text(line, "executable")?.into(),
        is_test: profile.contains("\"test\":true"),
    };
    // A program's own, empty, suite is of no use.
    let is_program = line.contains("\"kind\":[\"bin\"]");
    (is_ours && suite.is_test != is_program).then_some(suite)
}

/// A folder that is removed whatever happens.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Below `parent`, named after this process. What processes that were killed have left there goes now.
    fn new(parent: &Path) -> Result<Self, Failure> {
        let own = std::process::id();
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            let process = entry.file_name().to_string_lossy().parse::<u32>();
            if process.is_ok_and(|id| id == own || !Path::new(&format!("/proc/{id}")).exists()) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let path = parent.join(own.to_string());
        std::fs::create_dir_all(&path).map_err(|e| Failure::new(format!("cannot create {}: {e}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A command of the host that must succeed and whose output does not matter.
pub(super) fn quietly(command: &mut Command) -> Result<(), Failure> {
    output(command).map(drop)
}
