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

#[test]
fn an_absent_directory_behind_a_link_is_made_inside() {
    let bytes = archive(|b| {
        raw(b, EntryType::Symlink, "var/run", "/run/deep", b"");
        raw(b, EntryType::Regular, "var/run/file", "", b"x");
        raw(b, EntryType::Symlink, "up", "../../../new", b"");
        raw(b, EntryType::Regular, "up/file", "", b"x");
    });
    let (dir, result) = unpacked(&bytes);
    result.unwrap();
    assert!(dir.path().join("layer/run/deep/file").is_file());
    assert!(dir.path().join("layer/new/file").is_file());
}

#[test]
fn links_in_a_circle_are_an_error() {
    let bytes = archive(|b| {
        raw(b, EntryType::Symlink, "a", "b", b"");
        raw(b, EntryType::Symlink, "b", "a", b"");
        raw(b, EntryType::Regular, "a/file", "", b"x");
    });
    unpacked(&bytes).1.unwrap_err();
}

#[test]
fn hard_links_share_the_file_and_a_link_to_itself_keeps_it() {
    let bytes = archive(|b| {
        raw(b, EntryType::Regular, "file", "", b"data");
        raw(b, EntryType::Link, "sub/other", "/file", b"");
        raw(b, EntryType::Link, "file", "file", b"");
    });
    let (dir, result) = unpacked(&bytes);
    result.unwrap();
    let inode = |name: &str| std::fs::metadata(dir.path().join("layer").join(name)).unwrap().ino();
    assert_eq!(inode("file"), inode("sub/other"));
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 4];
    rustix::fs::getxattr(path, OPAQUE_XATTR, &mut value).is_ok()
}

#[test]
fn a_whiteout_spares_what_its_own_layer_has() {
    let after = archive(|b| {
        raw(b, EntryType::Regular, "file", "", b"new");
        raw(b, EntryType::Regular, "dir/file", "", b"new");
        raw(b, EntryType::Regular, ".wh.file", "", b"");
        raw(b, EntryType::Regular, ".wh.dir", "", b"");
    });
    let before = archive(|b| {
        raw(b, EntryType::Regular, ".wh.file", "", b"");
        raw(b, EntryType::Regular, ".wh.dir", "", b"");
        raw(b, EntryType::Regular, "file", "", b"new");
        raw(b, EntryType::Regular, "dir/file", "", b"new");
    });
    let with_entry = archive(|b| {
        raw(b, EntryType::Regular, "file", "", b"new");
        raw(b, EntryType::Regular, ".wh.dir", "", b"");
        raw(b, EntryType::Directory, "dir/", "", b"");
        raw(b, EntryType::Regular, "dir/file", "", b"new");
    });
    for bytes in [after, before, with_entry] {
        let (dir, result) = unpacked(&bytes);
        result.unwrap();
        let layer = dir.path().join("layer");
        assert_eq!(std::fs::read(layer.join("file")).unwrap(), b"new");
        assert_eq!(std::fs::read(layer.join("dir/file")).unwrap(), b"new");
        assert!(is_opaque(&layer.join("dir")), "the lower layer's directory does not show through");
    }
}

#[test]
fn bookkeeping_of_aufs_is_left_out() {
    let bytes = archive(|b| {
        raw(b, EntryType::Directory, ".wh..wh.plnk/", "", b"");
        raw(b, EntryType::Regular, ".wh..wh.plnk/12.34", "", b"x");
        raw(b, EntryType::Regular, ".wh..wh.aufs", "", b"x");
    });
    let (dir, result) = unpacked(&bytes);
    result.unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("layer")).unwrap().count(), 0);
}

#[test]
fn a_header_that_would_fill_memory_is_refused() {
    let mut long_name = header(EntryType::GNULongName, 1 << 40, 0o644);
    long_name.set_cksum();
    let endless = io::Read::chain(&long_name.as_bytes()[..], io::repeat(b'a'));
    let dir = tempfile::tempdir().unwrap();
    let error = unpack(endless, dir.path()).unwrap_err();
    assert!(error.to_string().contains("too large"), "{error}");
}

#[test]
fn extended_attributes_are_kept_but_do_not_steer_overlayfs() {
    let bytes = archive(|b| {
        let pax = [
            ("SCHILY.xattr.user.note", &b"kept"[..]),
            ("SCHILY.xattr.trusted.overlay.redirect", &b"/etc"[..]),
            ("SCHILY.xattr.user.overlay.opaque", &b"y"[..]),
        ];
        b.append_pax_extensions(pax).unwrap();
        raw(b, EntryType::Regular, "file", "", b"x");
        b.append_pax_extensions([("SCHILY.xattr.user.note", &b"impossible"[..])]).unwrap();
        raw(b, EntryType::Symlink, "link", "file", b"");
    });
    let (dir, result) = unpacked(&bytes);
    result.unwrap();
    let mut names = [0; 256];
    let read = rustix::fs::listxattr(dir.path().join("layer/file"), &mut names).unwrap();
    assert_eq!(&names[..read], b"user.note\0");
}

#[test]
fn what_is_not_known_is_named() {
    let (_dir, result) = unpacked(b"\xfd7zXZ\0 and so on");
    assert!(result.unwrap_err().to_string().contains("only gzip and zstd are known"));
    let sparse = archive(|b| {
        b.append_pax_extensions([("GNU.sparse.major", &b"1"[..])]).unwrap();
        raw(b, EntryType::Regular, "file", "", b"1\n0\n1\n");
    });
    let (_dir, result) = unpacked(&sparse);
    assert!(result.unwrap_err().to_string().contains("sparse"));
}
