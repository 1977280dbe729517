//! What the virtual machine boots: an initramfs that finds the disk, and the disk with the suites on it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::kernel::Kernel;
use super::{Scratch, quietly};
use crate::process::{Failure, cache, output};

/// Enough for the suites' images and scratch directories; the file is sparse.
const DISK_SIZE: &str = "2G";
/// To see the disk.
const EARLY_MODULES: &[&str] = &["virtio_pci", "virtio_blk"];
/// What the agent makes the kernel load by itself.
const LATE_MODULES: &[&str] = &["overlay", "bridge", "veth", "nf_tables", "nft_chain_nat", "nft_masq"];

const BUSYBOX: &str = "/bin/busybox";
const EARLY_INIT: &str = include_str!("early-init.sh");
const INIT: &str = include_str!("init.sh");

/// A program built by cargo: a suite, or what suites start.
pub struct Suite {
    pub name: String,
    pub program: PathBuf,
    pub is_test: bool,
}

pub struct Guest {
    pub initramfs: PathBuf,
    pub disk: PathBuf,
    _scratch: Scratch,
}

/// Everything in one folder, which goes when the guest does.
pub fn make(kernel: &Kernel, suites: &[Suite], arguments: &[String]) -> Result<Guest, Failure> {
    let scratch = Scratch::new(&cache().join("vm"))?;
    let (early, root) = (scratch.0.join("early"), scratch.0.join("root"));
    let (initramfs, disk) = (scratch.0.join("initramfs"), scratch.0.join("disk"));
    fill_early(&early, kernel)?;
    pack(&early, &initramfs)?;
    fill_system(&root, kernel)?;
    fill_suites(&root, suites, arguments)?;
    quietly(Command::new("/sbin/mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).args([&root, &disk]).arg(DISK_SIZE))?;
    Ok(Guest { initramfs, disk, _scratch: scratch })
}

fn fill_early(early: &Path, kernel: &Kernel) -> Result<(), Failure> {
    install(Path::new(BUSYBOX), &early.join("bin/busybox"))?;
    write(&early.join("init"), EARLY_INIT, 0o755)?;
    for (number, module) in kernel.modules(EARLY_MODULES)?.iter().enumerate() {
        // Numbered: they are loaded in the order of their names.
        install(module, &early.join(format!("modules/{number:02}.ko")))?;
    }
    Ok(())
}

fn fill_system(root: &Path, kernel: &Kernel) -> Result<(), Failure> {
    for directory in ["dev", "proc", "sys", "run", "tmp", "root", "var/tmp", "usr/bin", "usr/sbin"] {
        make_directory(&root.join(directory))?;
    }
    for program in ["bin/busybox", "bin/sh"] {
        install(Path::new(BUSYBOX), &root.join(program))?;
    }
    write(&root.join("sbin/init"), INIT, 0o755)?;
    write(&root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n", 0o644)?;
    write(&root.join("etc/group"), "root:x:0:\n", 0o644)?;
    write(&root.join("etc/hosts"), "127.0.0.1 localhost\n", 0o644)?;
    for module in kernel.modules(LATE_MODULES)? {
        install(&module, &root.join(kernel.installed_path(&module)))?;
    }
    // A client of TLS wants authorities to exist, whomever it will talk to.
    let authorities = Path::new("/etc/ssl/certs/ca-certificates.crt");
    if authorities.is_file() { install(authorities, &below(root, authorities)) } else { Ok(()) }
}

fn fill_suites(root: &Path, suites: &[Suite], arguments: &[String]) -> Result<(), Failure> {
    let mut libraries = BTreeSet::new();
    for suite in suites {
        // A suite looks for the shim where cargo has put it.
        let place = match suite.is_test {
            true => root.join("suites").join(&suite.name),
            false => below(root, &suite.program),
        };
        make_parent(&place)?;
        quietly(Command::new("strip").arg("--strip-debug").arg("-o").args([&place, &suite.program]))?;
        libraries.extend(libraries_of(&suite.program)?);
    }
    for library in &libraries {
        install(library, &below(root, library))?;
    }
    write(&root.join("suites/arguments"), &arguments.join("\n"), 0o644)
}

/// What the dynamic loader would load, and the loader.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>, Failure> {
    let listing = output(Command::new("ldd").arg(program))?;
    // `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)` or `/lib64/ld-linux-x86-64.so.2 (0x…)`
    let path = |line: &str| line.split_whitespace().find(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(listing.lines().filter_map(path).collect())
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn make_parent(path: &Path) -> Result<(), Failure> {
    path.parent().map_or(Ok(()), make_directory)
}

fn make_directory(path: &Path) -> Result<(), Failure> {
    fs::create_dir_all(path).map_err(|e| Failure::new(format!("cannot create {}: {e}", path.display())))
}

/// A copy with the same mode.
fn install(from: &Path, to: &Path) -> Result<(), Failure> {
    make_parent(to)?;
    let copied = fs::copy(from, to);
    copied.map(drop).map_err(|e| Failure::new(format!("cannot copy {} to {}: {e}", from.display(), to.display())))
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    make_parent(path)?;
    let written = fs::write(path, text).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)));
    written.map_err(|e| Failure::new(format!("cannot write {}: {e}", path.display())))
}

/// A folder as the archive that the kernel unpacks.
fn pack(directory: &Path, archive: &Path) -> Result<(), Failure> {
    let failure = |what: &dyn std::fmt::Display| Failure::new(format!("cannot pack the initramfs: {what}"));
    let list = output(Command::new(BUSYBOX).args(["find", "."]).current_dir(directory))?;
    let file = fs::File::create(archive).map_err(|error| failure(&error))?;
    let mut cpio = Command::new(BUSYBOX)
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(file)
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failure(&error))?;
    if let Some(mut names) = cpio.stdin.take() {
        names.write_all(list.as_bytes()).map_err(|error| failure(&error))?;
    }
    let status = cpio.wait().map_err(|error| failure(&error))?;
    if status.success() { Ok(()) } else { Err(failure(&status)) }
}
