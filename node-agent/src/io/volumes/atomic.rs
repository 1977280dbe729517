//! Contents that change in one step.
//!
//! The files are in a directory `..<number>`, `..data` is a link to it, and the names that a container uses are links
//! through `..data`. New contents are a new directory, and one rename of `..data` shows all of it. The layout is the
//! kubelet's, because programs watch `..data`.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::pod::volume::Contents;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes `contents` the contents of `volume`. Returns whether anything changed.
pub fn write(volume: &Path, contents: &Contents, group: Option<u32>) -> io::Result<bool> {
    std::fs::create_dir_all(volume)?;
    std::fs::set_permissions(volume, std::fs::Permissions::from_mode(0o755))?;
    let current = std::fs::read_link(volume.join(DATA)).ok();
    if let Some(current) = &current
        && is_same(&volume.join(current), contents)
    {
        return Ok(false);
    }
    let version = next_version(volume)?;
    write_version(&volume.join(&version), contents, group)?;
    let link = volume.join(DATA_NEW);
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(&version, &link)?;
    std::fs::rename(&link, volume.join(DATA))?;
    link_names(volume, contents)?;
    if let Some(current) = current {
        std::fs::remove_dir_all(volume.join(current))?;
    }
    Ok(true)
}

/// A name that no version has had while the volume exists.
fn next_version(volume: &Path) -> io::Result<String> {
    let mut newest = 0_u64;
    for entry in std::fs::read_dir(volume)? {
        let name = entry?.file_name();
        newest = newest.max(name.to_str().and_then(|name| name.strip_prefix("..v")?.parse().ok()).unwrap_or(0));
    }
    Ok(format!("..v{}", newest + 1))
}

fn write_version(dir: &Path, contents: &Contents, group: Option<u32>) -> io::Result<()> {
    std::fs::create_dir(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    for (path, file) in contents {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, &file.bytes)?;
        // The group of the pod's fsGroup can read what the owner can.
        let mode = if group.is_some() { file.mode | ((file.mode & 0o700) >> 3) } else { file.mode };
        std::os::unix::fs::chown(&path, None, group)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Links for the first components of all paths; links to what is gone are removed.
fn link_names(volume: &Path, contents: &Contents) -> io::Result<()> {
    let names: BTreeSet<&str> = contents.keys().map(|path| path.split('/').next().unwrap_or(path)).collect();
    for entry in std::fs::read_dir(volume)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !names.contains(name.as_ref()) {
            std::fs::remove_file(volume.join(name.as_ref()))?;
        }
    }
    for name in names {
        match std::os::unix::fs::symlink(PathBuf::from(DATA).join(name), volume.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn is_same(dir: &Path, contents: &Contents) -> bool {
    let is_each_same =
        contents.iter().all(|(path, file)| std::fs::read(dir.join(path)).is_ok_and(|bytes| bytes == file.bytes));
    is_each_same && count_files(dir) == contents.len()
}

fn count_files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::volume::FileContent;

    fn contents(files: &[(&str, &str)]) -> Contents {
        files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), FileContent { bytes: text.as_bytes().to_vec(), mode: 0o640 }))
            .collect()
    }

    fn listing(volume: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(volume).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn contents_appear_through_the_data_link() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        assert!(write(&volume, &contents(&[("a", "1"), ("d/b", "2")]), None).unwrap());
        assert_eq!(std::fs::read_to_string(volume.join("a")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(volume.join("d/b")).unwrap(), "2");
        assert_eq!(std::fs::metadata(volume.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(listing(&volume), ["..data", "..v1", "a", "d"]);
    }

    #[test]
    fn an_update_replaces_all_at_once_and_removes_what_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &contents(&[("a", "1"), ("b", "2")]), None).unwrap();
        assert!(write(dir.path(), &contents(&[("b", "3"), ("c", "4")]), None).unwrap());
        assert_eq!(listing(dir.path()), ["..data", "..v2", "b", "c"]);
        assert_eq!(std::fs::read_to_string(dir.path().join("b")).unwrap(), "3");
        assert!(
            !write(dir.path(), &contents(&[("b", "3"), ("c", "4")]), None).unwrap(),
            "the same contents are no change"
        );
        assert_eq!(listing(dir.path()), ["..data", "..v2", "b", "c"]);
    }

    #[test]
    fn empty_contents_are_a_volume_too() {
        let dir = tempfile::tempdir().unwrap();
        assert!(write(dir.path(), &contents(&[]), None).unwrap());
        assert_eq!(listing(dir.path()), ["..data", "..v1"]);
    }
}
