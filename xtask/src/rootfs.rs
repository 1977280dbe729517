//! The `debian` image of the demonstration: a root filesystem made with debootstrap, kept in the cache.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::process::{Failure, cache, run, step};

/// The path of the tar archive; built once a machine, in about half a minute.
pub fn debian() -> Result<PathBuf, Failure> {
    let images = cache().join("images");
    let archive = images.join("debian.tar");
    if archive.is_file() {
        return Ok(archive);
    }
    step("building the debian image with debootstrap (once a machine, about half a minute)");
    fs::create_dir_all(&images).map_err(|e| Failure::new(format!("cannot create {}: {e}", images.display())))?;
    let root = images.join(format!("debian.{}", std::process::id()));
    let partial = images.join(format!("debian.tar.{}", std::process::id()));
    let result = bootstrap(&root)
        .and_then(|()| {
            // Device nodes are made by the runtime; an archive without them can be unpacked anywhere.
            run(Command::new("tar")
                .args(["--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*"])
                .args(["--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*"])
                .args(["--numeric-owner", "--create", "--file"])
                .arg(&partial)
                .arg("--directory")
                .arg(&root)
                .arg("."))
        })
        .and_then(|()| fs::rename(&partial, &archive).map_err(|e| Failure::new(format!("cannot keep the image: {e}"))));
    // Best effort: the cache folder is ours, and a failure above matters more.
    let _ = fs::remove_file(&partial);
    let _ = fs::remove_dir_all(&root);
    result.map(|()| archive)
}

fn bootstrap(root: &PathBuf) -> Result<(), Failure> {
    let log = root.with_extension("log");
    let file = fs::File::create(&log).map_err(|e| Failure::new(format!("cannot create {}: {e}", log.display())))?;
    let errors = file.try_clone().map_err(|e| Failure::new(format!("cannot write {}: {e}", log.display())))?;
    let mirror = mirror();
    run(Command::new("debootstrap")
        .args(["--variant=minbase", "bookworm"])
        .arg(root)
        .args(mirror)
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors))
    .map_err(|failure| Failure::new(format!("{failure} (see {})", log.display())))?;
    let _ = fs::remove_file(&log);
    Ok(())
}

/// The mirror that this machine's apt uses, if one is configured; debootstrap's own default otherwise.
fn mirror() -> Option<String> {
    let mut sources = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().filter_map(Result::ok) {
        sources.push_str(&fs::read_to_string(entry.path()).unwrap_or_default());
        sources.push('\n');
    }
    let lines = || sources.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let one_line = lines().filter_map(|line| line.strip_prefix("deb ")).flat_map(str::split_whitespace);
    let deb822 = lines().filter_map(|line| line.strip_prefix("URIs:")).flat_map(str::split_whitespace);
    one_line
        .chain(deb822)
        .find(|word| word.contains("://") && word.trim_end_matches('/').ends_with("/debian"))
        .map(str::to_owned)
}
