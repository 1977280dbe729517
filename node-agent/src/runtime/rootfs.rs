//! Finding and making paths inside a container's root, only ever by descriptor.
//!
//! The root's content belongs to the image: any component may be a symbolic link meant to lead out. `openat2` resolves
//! inside the root and the kernel guarantees it, so no path of a container is ever resolved by the node.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::{Errno, Result};

/// A path relative to the root, cut into its parents, made before the child exists.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// `a`, `a/b`, `a/b/c` for `/a/b/c`; empty for the root itself.
    prefixes: Vec<CString>,
    names: Vec<CString>,
}

impl Target {
    /// `None` when the path is not absolute, has `..` or a NUL.
    pub(super) fn parse(path: &std::path::Path) -> Option<Self> {
        use std::os::unix::ffi::OsStrExt as _;
        let mut target = Self { prefixes: Vec::new(), names: Vec::new() };
        let mut so_far = Vec::new();
        if !path.is_absolute() {
            return None;
        }
        for component in path.components().skip(1) {
            let std::path::Component::Normal(name) = component else { return None };
            if !so_far.is_empty() {
                so_far.push(b'/');
            }
            so_far.extend_from_slice(name.as_bytes());
            target.prefixes.push(CString::new(so_far.clone()).ok()?);
            target.names.push(CString::new(name.as_bytes()).ok()?);
        }
        Some(target)
    }

    pub(super) fn is_root(&self) -> bool {
        self.prefixes.is_empty()
    }

    pub(super) fn depth(&self) -> usize {
        self.prefixes.len()
    }

    fn whole(&self) -> &CStr {
        self.prefixes.last().map_or(c".", |path| path.as_c_str())
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "/{}", self.prefixes.last().map_or("".into(), |path| path.to_string_lossy()))
    }
}

/// Opens `path` below `root` following links inside of it; `EAGAIN` (a rename somewhere raced) is retried.
pub(super) fn open_in(root: BorrowedFd<'_>, path: &CStr, flags: OFlags) -> Result<OwnedFd> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Opens `target` as a path, without making it.
pub(super) fn find(root: BorrowedFd<'_>, target: &Target) -> Result<OwnedFd> {
    open_in(root, target.whole(), OFlags::PATH)
}

/// Opens the directory `target`, making what is missing with mode 0755.
pub(super) fn make_directory(root: BorrowedFd<'_>, target: &Target) -> Result<OwnedFd> {
    let mut current = open_in(root, c".", OFlags::PATH | OFlags::DIRECTORY)?;
    for (prefix, name) in target.prefixes.iter().zip(&target.names) {
        current = match open_in(root, prefix, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {
                match mkdirat(&current, name.as_c_str(), Mode::from_raw_mode(0o755)) {
                    // EEXIST: a link whose target does not exist; opening it again tells.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
                open_in(root, prefix, OFlags::PATH | OFlags::DIRECTORY)?
            }
            result => result?,
        };
    }
    Ok(current)
}

/// Opens `target` to mount a file on it, making an empty one when nothing is there.
pub(super) fn make_file(root: BorrowedFd<'_>, target: &Target) -> Result<OwnedFd> {
    match find(root, target) {
        Err(Errno::NOENT) => {}
        result => return result,
    }
    let (Some(name), [parents @ .., _]) = (target.names.last(), target.prefixes.as_slice()) else {
        return Err(Errno::ISDIR);
    };
    let parent = Target { prefixes: parents.to_vec(), names: target.names[..parents.len()].to_vec() };
    let parent = make_directory(root, &parent)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    drop(openat(&parent, name.as_c_str(), flags, Mode::from_raw_mode(0o644))?);
    find(root, target)
}

/// Whether the descriptor is a directory.
pub(super) fn is_directory(fd: impl AsFd) -> Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn links_cannot_lead_out() {
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
        let root_fd = open(root.path());
        let target = Target::parse(Path::new("/link/x/y")).unwrap();
        // The link is absolute, so it is resolved below the root, where its target does not exist.
        assert!(make_directory(root_fd.as_fd(), &target).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn missing_directories_and_files_are_made() {
        let root = tempfile::tempdir().unwrap();
        let root_fd = open(root.path());
        make_directory(root_fd.as_fd(), &Target::parse(Path::new("/a/b")).unwrap()).unwrap();
        make_file(root_fd.as_fd(), &Target::parse(Path::new("/a/c/file")).unwrap()).unwrap();
        assert!(root.path().join("a/b").is_dir() && root.path().join("a/c/file").is_file());
    }

    #[test]
    fn paths_that_climb_are_no_targets() {
        assert!(Target::parse(Path::new("relative")).is_none());
        assert!(Target::parse(Path::new("/a/../b")).is_none());
        assert!(Target::parse(Path::new("/")).unwrap().is_root());
    }
}
