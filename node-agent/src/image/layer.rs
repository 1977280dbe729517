//! Unpacking one layer into its own directory, with overlayfs' native whiteouts.
//!
//! A layer's bytes come from anywhere, and this process is root. Every path is therefore resolved by the kernel *inside* the
//! layer's directory (`openat2` with `RESOLVE_IN_ROOT`): neither `..`, absolute names nor symbolic links planted by an
//! earlier entry lead out of it. Since whiteouts become overlayfs objects at once, layers never need each other: they are unpacked in
//! parallel, shared by digest, and stacked at mount time.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RawMode, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use tar::{Archive, Entry, EntryType};

use super::digest::HashingReader;
use super::limits::LAYER_BYTES_MAX;

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
const PAX_XATTR_PREFIX: &str = "SCHILY.xattr.";

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
    let mut unpacker = Unpacker { root, directories: Vec::new() };
    let mut archive = Archive::new(&mut plain);
    for entry in archive.entries()? {
        let mut entry = entry?;
        unpacker.entry(&mut entry).map_err(|error| {
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            io::Error::new(error.kind(), format!("entry {path:?}: {error}"))
        })?;
    }
    drop(archive);
    unpacker.finish_directories()?;
    let (diff_id, bytes) = plain.finish()?;
    Ok(Unpacked { diff_id, bytes })
}

/// The stream behind whatever compression its first bytes tell of.
pub fn decompressed<'a>(mut source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    const GZIP: &[u8] = &[0x1f, 0x8b];
    const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
    let mut start = [0; 4];
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
    } else {
        Box::new(whole)
    })
}

struct Unpacker {
    root: OwnedFd,
    /// Times of directories are set at the end: writing into them changes them.
    directories: Vec<(PathBuf, i64)>,
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
        let parent = self.directory(path.parent().unwrap_or(Path::new("")))?;
        if name.as_bytes() == OPAQUE_MARKER {
            return set_opaque(&parent);
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
        if kind != EntryType::Directory {
            remove(parent, name)?;
        }
        match kind {
            EntryType::Directory => self.make_directory(entry, path, parent, name),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = File::from(rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?);
                io::copy(entry, &mut file)?;
                drop(file);
                self.apply_metadata(parent.as_fd(), name, entry)
            }
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
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
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

    /// The directory at `path`, made (0755, root) where an archive leaves parents out.
    fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        match self.existing(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => return result,
        }
        let name = path.file_name().ok_or_else(|| io::Error::other("the layer's directory is gone"))?;
        let parent = self.directory(path.parent().unwrap_or(Path::new("")))?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => self.existing(path),
            Err(error) => Err(error.into()),
        }
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

fn set_opaque(directory: &OwnedFd) -> io::Result<()> {
    Ok(rustix::fs::setxattr(through_proc(directory, None), OPAQUE_XATTR, b"y", XattrFlags::empty())?)
}

fn whiteout(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." {
        return Err(io::Error::other("a whiteout without a name"));
    }
    remove(parent, name)?;
    Ok(rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), rustix::fs::makedev(0, 0))?)
}

/// Removes what an earlier entry of this layer put there.
fn remove(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(rustix::io::Errno::ISDIR) => std::fs::remove_dir_all(through_proc(parent, Some(name))),
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
        let path = through_proc(&parent, Some(name));
        match rustix::fs::lsetxattr(&path, key, extension.value_bytes(), XattrFlags::empty()) {
            // Not every file system knows every name space; what matters (capabilities) is known to all that can hold pods.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A path for calls that take no directory descriptor. The last component is never followed by those used here.
fn through_proc(directory: &impl AsFd, name: Option<&OsStr>) -> PathBuf {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&directory.as_fd());
    let mut path = PathBuf::from(format!("/proc/self/fd/{fd}"));
    if let Some(name) = name {
        path.push(name);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

    fn archive(build: impl Fn(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn header(kind: EntryType, size: u64, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header
    }

    /// Writes the name without the checks of the tar crate: archives of attackers have none.
    fn raw(builder: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, data: &[u8]) {
        let mut header = header(kind, data.len() as u64, 0o644);
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }

    fn unpacked(bytes: &[u8]) -> (tempfile::TempDir, io::Result<Unpacked>) {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("layer");
        std::fs::create_dir(&target).unwrap();
        let result = unpack(bytes, &target);
        (dir, result)
    }

    #[test]
    fn files_keep_mode_owner_and_time() {
        let bytes = archive(|b| {
            let mut directory = header(EntryType::Directory, 0, 0o750);
            b.append_data(&mut directory, "etc/", &[][..]).unwrap();
            let mut file = header(EntryType::Regular, 3, 0o4711);
            file.set_uid(12);
            b.append_data(&mut file, "etc/motd", &b"hi\n"[..]).unwrap();
        });
        let (dir, result) = unpacked(&bytes);
        result.unwrap();
        let meta = std::fs::metadata(dir.path().join("layer/etc/motd")).unwrap();
        assert_eq!((meta.permissions().mode() & 0o7777, meta.uid(), meta.mtime()), (0o4711, 12, 1_000_000));
        let meta = std::fs::metadata(dir.path().join("layer/etc")).unwrap();
        assert_eq!((meta.permissions().mode() & 0o7777, meta.mtime()), (0o750, 1_000_000));
    }

    #[test]
    fn no_entry_leaves_the_layer() {
        let outside = tempfile::tempdir().unwrap();
        let out = outside.path().to_str().unwrap();
        let bytes = archive(|b| {
            raw(b, EntryType::Regular, "../../dotdot", "", b"x");
            raw(b, EntryType::Regular, "/absolute", "", b"x");
            raw(b, EntryType::Symlink, "trap", out, b"");
            raw(b, EntryType::Regular, "trap/planted", "", b"x");
        });
        let (dir, result) = unpacked(&bytes);
        result.unwrap();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0, "nothing was planted outside");
        assert!(dir.path().join("layer/dotdot").is_file());
        assert!(dir.path().join("layer/absolute").is_file());
        assert!(!dir.path().join("dotdot").exists());
    }

    #[test]
    fn a_hard_link_cannot_reach_outside() {
        let bytes = archive(|b| raw(b, EntryType::Link, "shadow", "/etc/passwd", b""));
        let (dir, result) = unpacked(&bytes);
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!dir.path().join("layer/shadow").exists());
    }

    #[test]
    fn whiteouts_become_overlay_objects() {
        let bytes = archive(|b| {
            raw(b, EntryType::Regular, "dir/.wh.gone", "", b"");
            raw(b, EntryType::Regular, "opaque/.wh..wh..opq", "", b"");
        });
        let (dir, result) = unpacked(&bytes);
        result.unwrap();
        let meta = std::fs::symlink_metadata(dir.path().join("layer/dir/gone")).unwrap();
        assert!(meta.file_type().is_char_device() && meta.rdev() == 0);
        let mut value = [0; 4];
        let read = rustix::fs::getxattr(dir.path().join("layer/opaque"), OPAQUE_XATTR, &mut value).unwrap();
        assert_eq!(&value[..read], b"y");
    }

    #[test]
    fn compression_is_told_by_the_first_bytes() {
        let plain = archive(|b| raw(b, EntryType::Regular, "file", "", b"data"));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &plain).unwrap();
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        let expected = super::super::digest::of(&plain);
        for bytes in [&plain, &gzip.finish().unwrap(), &zstd] {
            let (dir, result) = unpacked(bytes);
            assert_eq!(result.unwrap().diff_id, expected);
            assert_eq!(std::fs::read(dir.path().join("layer/file")).unwrap(), b"data");
        }
    }

    #[test]
    fn a_truncated_archive_is_an_error() {
        let bytes = archive(|b| raw(b, EntryType::Regular, "file", "", &[7; 4096]));
        let (_dir, result) = unpacked(&bytes[..2048]);
        assert!(result.is_err());
    }
}
