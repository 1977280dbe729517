//! Debian 12's kernel, unpacked and not installed, and the modules a guest needs of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Failure, cache, output, step};
use crate::setup;

/// Depends on the newest kernel for virtual machines; the smallest that Debian has.
const NEWEST: &str = "linux-image-cloud-amd64";
/// What Debian 12 promises for all of its life.
const SERIES: &str = "linux-image-6.1.";

pub struct Kernel {
    /// As `uname -r` says.
    pub version: String,
    pub image: PathBuf,
    /// By name with `_` for `-`, as modules name each other.
    modules: BTreeMap<String, PathBuf>,
    directory: PathBuf,
}

impl Kernel {
    /// From the cache, or from this machine's package sources.
    pub fn of_debian_12() -> Result<Self, Failure> {
        let kernels = cache().join("vm/kernels");
        let mut cached: Vec<PathBuf> = entries(&kernels);
        cached.sort();
        if let Some(kernel) = cached.iter().rev().find_map(|directory| Self::in_directory(directory).ok()) {
            return Ok(kernel);
        }
        step("unpacking Debian 12's kernel (once a machine)");
        setup::update_package_lists()?;
        let depends = output(Command::new("apt-cache").args(["depends", NEWEST]))?;
        let package = depends
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|package| package.starts_with(SERIES))
            .ok_or_else(|| Failure::new(format!("this machine's package sources have no {SERIES}*; see --kernel")))?;
        let directory = kernels.join(package);
        setup::unpack_package(package, &directory)?;
        Self::in_directory(&directory)
    }

    /// From a folder that a kernel's package was unpacked into.
    pub fn in_directory(directory: &Path) -> Result<Self, Failure> {
        let missing = |what: &str| Failure::new(format!("{} has no {what}", directory.display()));
        let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let image = entries(&directory.join("boot"))
            .into_iter()
            .find(|path| name(path).is_some_and(|name| name.starts_with("vmlinuz-")));
        let image = image.ok_or_else(|| missing("boot/vmlinuz-*"))?;
        let version = name(&image).unwrap_or_default().trim_start_matches("vmlinuz-").to_owned();
        let mut modules = BTreeMap::new();
        index(&directory.join("lib/modules").join(&version), &mut modules);
        if modules.is_empty() {
            return Err(missing("modules that fit its kernel"));
        }
        Ok(Self { version, image, modules, directory: directory.to_owned() })
    }

    /// The files of the modules called so and of all they depend on, in the order to load them.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>, Failure> {
        let mut ordered = Vec::new();
        for name in names {
            self.add_module(name, &mut ordered)?;
        }
        Ok(ordered)
    }

    fn add_module(&self, name: &str, ordered: &mut Vec<PathBuf>) -> Result<(), Failure> {
        let name = name.replace('-', "_");
        let file = self.modules.get(&name).ok_or_else(|| Failure::new(format!("the kernel has no module {name}")))?;
        if ordered.contains(file) {
            return Ok(());
        }
        let content = fs::read(file).map_err(|e| Failure::new(format!("cannot read {}: {e}", file.display())))?;
        for dependency in dependencies(&content) {
            self.add_module(&dependency, ordered)?;
        }
        ordered.push(file.clone());
        Ok(())
    }

    /// Where a file lies below the root of an installed system.
    pub fn installed_path<'a>(&self, file: &'a Path) -> &'a Path {
        file.strip_prefix(&self.directory).unwrap_or(file)
    }
}

/// `depends=` in a module's own description; the index of all modules is only made when a kernel is installed.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[start + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value).into_owned();
    value.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn index(directory: &Path, modules: &mut BTreeMap<String, PathBuf>) {
    for path in entries(directory) {
        if path.is_dir() {
            index(&path, modules);
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".ko")) {
            modules.insert(name.replace('-', "_"), path);
        }
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_what_it_needs() {
        assert_eq!(dependencies(b"\x7fELF\0license=GPL\0depends=stp,llc\0name=bridge\0"), ["stp", "llc"]);
        assert!(dependencies(b"\x7fELF\0depends=\0name=llc\0").is_empty());
    }
}
