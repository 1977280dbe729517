//! Unpacking one layer into its own directory, with overlayfs' native whiteouts.
//!
//! A layer's bytes come from anywhere, and this process is root. Every path is therefore resolved by the kernel *inside* the
//! layer's directory (`openat2` with `RESOLVE_IN_ROOT`): neither `..`, absolute names nor symbolic links planted by an
//! earlier entry lead out of it. What would only fill memory or the disk meets a limit. Since whiteouts become overlayfs objects at once, layers never need each other: they are unpacked in
//! parallel, shared by digest, and stacked at mount time.

#![allow(clippy::disallowed_methods, reason = "images live on disk: this is the edge")]

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use tar::{Archive, Entry, EntryType};

use super::digest::HashingReader;
use super::limits::{LAYER_BYTES_MAX, LAYER_HEADER_BYTES_MAX, PARENT_LINKS_MAX};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// AUFS' own bookkeeping, which older tools packed along.
const AUFS_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
const PAX_XATTR_PREFIX: &str = "SCHILY.xattr.";

/// Of directories that an archive leaves out; set whatever the process' umask.
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);

/// What an unpacked layer turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub struct Unpacked {
    /// `sha256:…` of the uncompressed archive.
    pub diff_id: String,
    pub bytes: u64,
}

/// Unpacks an archive (plain, gzip or zstd, told by its first bytes) into `target`, an empty directory.
pub fn unpack(source: impl Read, target: &Path) -> io::Result<Unpacked> {
    let mut plain = HashingReader::new(decompressed(source)?, LAYER_BYTES_MAX);
    let root = rustix::fs::openat(CWD, target, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    rustix::fs::chmodat(&root, ".", DIRECTORY_MODE, AtFlags::empty())?;
    let mut unpacker = Unpacker { root, directories: Vec::new(), bytes: 0 };
    let left = Cell::new(0);
    let mut archive = Archive::new(Rationed { inner: &mut plain, left: &left });
    let mut entries = archive.entries()?;
    loop {
        // Between two files lie names and attributes, and the archive's reader keeps them in memory.
        left.set(LAYER_HEADER_BYTES_MAX);
        let Some(entry) = entries.next() else { break };
        left.set(u64::MAX);
        let mut entry = entry?;
        unpacker.entry(&mut entry).map_err(|error| {
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            io::Error::new(error.kind(), format!("entry {path:?}: {error}"))
        })?;
        io::copy(&mut entry, &mut io::sink())?;
    }
    unpacker.finish_directories()?;
    let (diff_id, bytes) = plain.finish()?;
    Ok(Unpacked { diff_id, bytes })
}

/// Fails when more is read than was left.
struct Rationed<'a, R> {
    inner: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Rationed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let left = self.left.get().checked_sub(n as u64);
        self.left.set(left.ok_or_else(|| io::Error::other("the header of a file is too large"))?);
        Ok(n)
    }
}

/// The stream behind whatever compression its first bytes tell of.
pub fn decompressed<'a>(mut source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    const GZIP: &[u8] = &[0x1f, 0x8b];
    const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
    const XZ: &[u8] = b"\xfd7zXZ";
    const BZIP2: &[u8] = b"BZh";
    let mut start = [0; 5];
    let mut filled = 0;
    while filled < start.len() {
        match source.read(&mut start[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    let whole = io::Cursor::new(start[..filled].to_vec()).chain(source);
    Ok(if start.starts_with(GZIP) {
        Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(1 << 16, whole)))
    } else if start.starts_with(ZSTD) {
        Box::new(zstd::stream::read::Decoder::new(whole)?)
    } else if start.starts_with(XZ) || start.starts_with(BZIP2) {
        return Err(io::Error::other("compressed with xz or bzip2: only gzip and zstd are known"));
    } else {
        Box::new(whole)
    })
}

struct Unpacker {
    root: OwnedFd,
    /// Times of directories are set at the end: writing into them changes them.
    directories: Vec<(PathBuf, i64)>,
    /// Written so far; sparse files write more than their archive holds.
    bytes: u64,
}

impl Unpacker {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        let path = clean(&entry.path_bytes());
        let Some(name) = path.file_name() else {
            // The archive's own top directory: its mode and owner count.
            return match entry.header().entry_type() {
                EntryType::Directory => self.apply_metadata(self.root.as_fd(), OsStr::new("."), entry),
                _ => Ok(()),
            };
        };
        let is_aufs = |part: Component<'_>| part.as_os_str().as_bytes().starts_with(AUFS_PREFIX);
        if name.as_bytes() != OPAQUE_MARKER && path.components().any(is_aufs) {
            return Ok(());
        }
        let parent = self.directory(path.parent().unwrap_or(Path::new("")), PARENT_LINKS_MAX)?;
        if name.as_bytes() == OPAQUE_MARKER {
            return set_opaque(&through_proc(&parent, OsStr::new(".")));
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT_PREFIX) {
            return whiteout(&parent, OsStr::from_bytes(hidden));
        }
        self.create(entry, &path, &parent, name)
    }

    fn create(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        path: &Path,
        parent: &OwnedFd,
        name: &OsStr,
    ) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if !matches!(kind, EntryType::Directory | EntryType::Link) {
            remove(parent, name)?;
        }
        match kind {
            EntryType::Directory => self.make_directory(entry, path, parent, name),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => self.make_file(entry, parent, name),
            EntryType::Symlink => {
                let target =
                    entry.link_name_bytes().ok_or_else(|| io::Error::other("a symbolic link without target"))?;
                rustix::fs::symlinkat(OsStr::from_bytes(&target), parent, name)?;
                self.apply_metadata(parent.as_fd(), name, entry)
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().ok_or_else(|| io::Error::other("a hard link without target"))?;
                let target = clean(&target);
                let target_name = target.file_name().ok_or_else(|| io::Error::other("a hard link to a directory"))?;
                let target_parent = self.existing(target.parent().unwrap_or(Path::new("")))?;
                if target == path {
                    return Ok(());
                }
                remove(parent, name)?;
                Ok(rustix::fs::linkat(&target_parent, target_name, parent, name, AtFlags::empty())?)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let (file_type, device) = match kind {
                    EntryType::Fifo => (FileType::Fifo, 0),
                    EntryType::Char => (FileType::CharacterDevice, device(entry)?),
                    _ => (FileType::BlockDevice, device(entry)?),
                };
                rustix::fs::mknodat(parent, name, file_type, Mode::RUSR | Mode::WUSR, device)?;
                self.apply_metadata(parent.as_fd(), name, entry)
            }
            // Headers of other tools (volume labels, …) carry no file.
            _ => Ok(()),
        }
    }

    fn make_file(&mut self, entry: &mut Entry<'_, impl Read>, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        if is_pax_sparse(entry)? {
            return Err(io::Error::other("sparse files in PAX format are not known"));
        }
        let size = entry.size();
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > LAYER_BYTES_MAX {
            return Err(io::Error::other(format!("the layer is larger than {LAYER_BYTES_MAX} bytes")));
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?);
        if io::copy(entry, &mut file)? != size {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within the file"));
        }
        drop(file);
        self.apply_metadata(parent.as_fd(), name, entry)
    }

    fn make_directory(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        path: &Path,
        parent: &OwnedFd,
        name: &OsStr,
    ) -> io::Result<()> {
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if is_whiteout(&stat) {
                    replace_whiteout(parent, name)?;
                } else if file_type(&stat) != FileType::Directory {
                    remove(parent, name)?;
                    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        self.directories.push((path.to_owned(), modified(entry)));
        self.apply_metadata(parent.as_fd(), name, entry)
    }

    /// Owner before mode: changing the owner clears set-user-id bits.
    fn apply_metadata(&self, parent: BorrowedFd<'_>, name: &OsStr, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
        let header = entry.header();
        let symlink = header.entry_type() == EntryType::Symlink;
        let id = |value: u64| u32::try_from(value).map_err(|_| io::Error::other("an owner beyond 32 bits"));
        let (uid, gid) = (Uid::from_raw(id(header.uid()?)?), Gid::from_raw(id(header.gid()?)?));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if !symlink {
            let mode = Mode::from_raw_mode(RawMode::from(header.mode()? & 0o7777));
            rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?;
        }
        set_xattrs(parent, name, entry)?;
        set_time(parent, name, modified(entry))
    }

    /// The directory at `path`, made (0755, root) where an archive leaves parents out. A symbolic link on the way may lead to
    /// what is not there yet; `links_left` of them are followed, inside the layer as everywhere.
    fn directory(&self, path: &Path, links_left: usize) -> io::Result<OwnedFd> {
        match self.existing(path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            result => return result,
        }
        let name = path.file_name().ok_or_else(|| io::Error::other("the layer's directory is gone"))?;
        let above = path.parent().unwrap_or(Path::new(""));
        let parent = self.directory(above, links_left)?;
        match rustix::fs::mkdirat(&parent, name, DIRECTORY_MODE) {
            Ok(()) => rustix::fs::chmodat(&parent, name, DIRECTORY_MODE, AtFlags::empty())?,
            Err(rustix::io::Errno::EXIST) => {
                let stat = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if is_whiteout(&stat) {
                    replace_whiteout(&parent, name)?;
                } else if file_type(&stat) == FileType::Symlink && links_left > 0 {
                    let link = rustix::fs::readlinkat(&parent, name, Vec::new())?;
                    let target = above.join(OsStr::from_bytes(link.as_bytes()));
                    return self.directory(&clean(target.as_os_str().as_bytes()), links_left - 1);
                }
            }
            Err(error) => return Err(error.into()),
        }
        self.existing(path)
    }

    fn existing(&self, path: &Path) -> io::Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)?)
    }

    fn finish_directories(&self) -> io::Result<()> {
        for (path, seconds) in self.directories.iter().rev() {
            // A later entry may have replaced it.
            if let Ok(directory) = self.existing(path) {
                set_time(directory.as_fd(), OsStr::new("."), *seconds)?;
            }
        }
        Ok(())
    }
}

/// The path without `.`, `..` and leading slashes: where the entry lies below the root.
fn clean(bytes: &[u8]) -> PathBuf {
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(bytes)).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::ParentDir => {
                path.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    path
}

fn modified(entry: &Entry<'_, impl Read>) -> i64 {
    entry.header().mtime().ok().and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0)
}

fn device(entry: &Entry<'_, impl Read>) -> io::Result<u64> {
    let part = |value: io::Result<Option<u32>>| value.map(|number| number.unwrap_or(0));
    let (major, minor) = (part(entry.header().device_major())?, part(entry.header().device_minor())?);
    Ok(rustix::fs::makedev(major, minor))
}

/// GNU tar's newer form of sparse files, whose data begin with a map that would become part of the file.
fn is_pax_sparse(entry: &mut Entry<'_, impl Read>) -> io::Result<bool> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(false) };
    Ok(extensions.filter_map(Result::ok).any(|extension| extension.key_bytes().starts_with(b"GNU.sparse.")))
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn set_opaque(directory: &Path) -> io::Result<()> {
    Ok(rustix::fs::lsetxattr(directory, OPAQUE_XATTR, b"y", XattrFlags::empty())?)
}

/// Hides what lower layers have under a name. What this layer itself has there stays, whichever came first in the archive
/// (image-spec, layer.md, "Whiteouts").
fn whiteout(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." {
        return Err(io::Error::other("a whiteout without a name"));
    }
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if file_type(&stat) == FileType::Directory => set_opaque(&through_proc(parent, name)),
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::NOENT) => {
            let device = rustix::fs::makedev(0, 0);
            Ok(rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), device)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// A directory in place of a whiteout still hides what lower layers have there.
fn replace_whiteout(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    remove(parent, name)?;
    rustix::fs::mkdirat(parent, name, DIRECTORY_MODE)?;
    rustix::fs::chmodat(parent, name, DIRECTORY_MODE, AtFlags::empty())?;
    set_opaque(&through_proc(parent, name))
}

/// Removes what an earlier entry of this layer put there.
fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::ISDIR) => std::fs::remove_dir_all(through_proc(parent, name)),
        Err(error) => Err(error.into()),
    }
}

fn set_time(parent: BorrowedFd<'_>, name: &OsStr, seconds: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(rustix::fs::utimensat(parent, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// File capabilities and other extended attributes, as archives carry them in PAX headers.
fn set_xattrs(parent: BorrowedFd<'_>, name: &OsStr, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(()) };
    for extension in extensions {
        let extension = extension?;
        let Some(key) = extension.key().ok().and_then(|key| key.strip_prefix(PAX_XATTR_PREFIX)) else { continue };
        // An image must not steer overlayfs itself.
        if key.starts_with("trusted.") || key.starts_with("user.overlay.") {
            continue;
        }
        let path = through_proc(&parent, name);
        match rustix::fs::lsetxattr(&path, key, extension.value_bytes(), XattrFlags::empty()) {
            // Not every file system knows every name space; what matters (capabilities) is known to all that can hold pods.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            // The kernel keeps user attributes for files and directories only.
            Err(rustix::io::Errno::PERM) if key.starts_with("user.") => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A path for calls that take no directory descriptor. The last component is never followed by those used here.
fn through_proc(directory: &impl AsFd, name: &OsStr) -> PathBuf {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&directory.as_fd());
    PathBuf::from(format!("/proc/self/fd/{fd}")).join(name)
}

#[cfg(test)]
mod tests;
