//! A container's root as a detached overlayfs mount: no path of the node is ever mounted on, so nothing can leak.
//!
//! Directories are handed to the kernel as descriptors by way of `/proc/self/fd`, so no length of a path and no `:`, `,` or
//! `\` in one matters. Layers go in one `lowerdir+` each (Linux 6.7). Older kernels, Debian 12's among them, know only
//! one string of options: it goes through the classic `mount(2)`, whose mount is cloned and taken off at once, in a mount
//! namespace that nobody else sees. (`fsconfig` takes 255 bytes of such a string on them, too few for twenty layers.)
//!
//! `volatile` skips the sync of the whole disk when a container ends; such an upper can never be mounted again, and none is.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, open_tree, unmount,
};
use rustix::process::fchdir;

use super::limits::MOUNT_OPTIONS_SIZE_MAX;
use super::sys;

/// All layers merged, nothing writable. `layers` are lowest first and at least two: overlayfs refuses a single lower.
///
/// For a process with threads: where the kernel needs a path to mount on, a thread with its own mount namespace does it.
pub(super) fn mount_read_only(layers: &[PathBuf]) -> io::Result<OwnedFd> {
    read_only(Way::of_this_kernel(), layers)
}

/// The root of one container instance. `scratch` is a fresh directory of this instance. The calling process must be alone
/// in its mount namespace, and its working directory is elsewhere for a moment: this is for the shim.
pub(super) fn mount_writable(layers: &[PathBuf], scratch: &Path) -> io::Result<OwnedFd> {
    writable(Way::of_this_kernel(), layers, scratch)
}

/// How overlayfs is told its directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Each by itself, in a file system context.
    Context,
    /// All in one string for `mount(2)`.
    Options,
}

impl Way {
    /// By version: every failed attempt would be a line in the node's kernel log.
    fn of_this_kernel() -> Self {
        Self::of_kernel(&rustix::system::uname().release().to_string_lossy())
    }

    fn of_kernel(release: &str) -> Self {
        let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (6, 7) => Self::Context,
            _ => Self::Options,
        }
    }
}

fn read_only(way: Way, layers: &[PathBuf]) -> io::Result<OwnedFd> {
    let lower_only = || open_topmost_first(layers).map(|lowers| Directories { lowers, upper_and_work: None });
    match (way, layers) {
        (Way::Context, _) => mount_by_context(&lower_only()?),
        // Opened there, because overlayfs takes no directory of another mount namespace.
        (Way::Options, [on, ..]) => in_private_mounts(|| mount_by_options(&lower_only()?, on)),
        (Way::Options, []) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn writable(way: Way, layers: &[PathBuf], scratch: &Path) -> io::Result<OwnedFd> {
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    std::fs::create_dir_all(&work)?;
    std::fs::create_dir_all(&upper)?;
    copy_mode(layers.last(), &upper)?;
    let upper_and_work = Some((open_directory(&upper)?, open_directory(&work)?));
    let directories = Directories { lowers: open_topmost_first(layers)?, upper_and_work };
    match way {
        Way::Context => mount_by_context(&directories),
        Way::Options => mount_by_options(&directories, scratch),
    }
}

/// The root directory itself has the mode the image gives it, not that of a directory just made with umask 077.
fn copy_mode(top: Option<&PathBuf>, upper: &Path) -> io::Result<()> {
    let permissions = match top {
        Some(top) => std::fs::metadata(top)?.permissions(),
        None => std::os::unix::fs::PermissionsExt::from_mode(0o755),
    };
    std::fs::set_permissions(upper, permissions)
}

/// What is merged, by descriptor.
struct Directories {
    /// Topmost first, as overlayfs wants them.
    lowers: Vec<OwnedFd>,
    upper_and_work: Option<(OwnedFd, OwnedFd)>,
}

fn open_topmost_first(layers: &[PathBuf]) -> io::Result<Vec<OwnedFd>> {
    layers.iter().rev().map(|layer| open_directory(layer)).collect()
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// This process' descriptors as a directory of magic links.
const DESCRIPTORS: &str = "/proc/self/fd";

fn mount_by_context(directories: &Directories) -> io::Result<OwnedFd> {
    let link = |fd: &OwnedFd| format!("{DESCRIPTORS}/{}", fd.as_raw_fd());
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for lower in &directories.lowers {
        fsconfig_set_string(&context, "lowerdir+", link(lower))?;
    }
    let mut attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
    if let Some((upper, work)) = &directories.upper_and_work {
        fsconfig_set_string(&context, "upperdir", link(upper))?;
        fsconfig_set_string(&context, "workdir", link(work))?;
        fsconfig_set_flag(&context, "volatile")?;
        attributes = MountAttrFlags::empty();
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Mounts on `on` for the moment it takes to clone the mount.
fn mount_by_options(directories: &Directories, on: &Path) -> io::Result<OwnedFd> {
    let upper_and_work = directories.upper_and_work.as_ref().map(|(upper, work)| (upper.as_raw_fd(), work.as_raw_fd()));
    let options = options(directories.lowers.iter().map(|lower| lower.as_raw_fd()), upper_and_work)?;
    let flags = if upper_and_work.is_none() { MountFlags::RDONLY } else { MountFlags::empty() };
    let on = std::path::absolute(on)?;
    within(&open_directory(Path::new(DESCRIPTORS))?, || {
        Ok(mount("overlay", &on, "overlay", flags, options.as_c_str())?)
    })?;
    let tree = open_tree(CWD, &on, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC);
    unmount(&on, UnmountFlags::DETACH)?;
    Ok(tree?)
}

/// `lowerdir=7:6,upperdir=8,workdir=9,volatile`: descriptors relative to [`DESCRIPTORS`], four bytes a layer, because the
/// kernel cuts without a word what is longer than a page.
fn options(lowers: impl Iterator<Item = RawFd>, upper_and_work: Option<(RawFd, RawFd)>) -> io::Result<CString> {
    let lowers: Vec<String> = lowers.map(|lower| lower.to_string()).collect();
    let mut options = format!("lowerdir={}", lowers.join(":"));
    if let Some((upper, work)) = upper_and_work {
        options.push_str(&format!(",upperdir={upper},workdir={work},volatile"));
    }
    if options.len() > MOUNT_OPTIONS_SIZE_MAX {
        let layers = lowers.len();
        return Err(io::Error::other(format!(
            "{layers} layers need more than {MOUNT_OPTIONS_SIZE_MAX} bytes to mount"
        )));
    }
    Ok(CString::new(options)?)
}

/// Runs `task` with `directory` as working directory, for paths short enough.
fn within<T>(directory: &OwnedFd, task: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = open_directory(Path::new("."))?;
    fchdir(directory)?;
    let result = task();
    fchdir(&before)?;
    result
}

/// Runs `task` on a thread of its own, with a mount namespace and a working directory of its own. What it makes outlives
/// them only as a descriptor.
fn in_private_mounts<T: Send>(task: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            sys::unshare_mounts_of_thread()?;
            task()
        });
        thread.join().expect("invariant: mounting does not panic")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::os::fd::AsFd as _;

    use rustix::fs::{FileType, RawDir, XattrFlags, mkdirat, mknodat, openat, setxattr};

    use super::*;

    /// The kernel's own limit, and so an image's.
    const LAYERS_MAX: usize = 500;

    /// The classic way works on every kernel, the other on those that know it.
    fn ways() -> &'static [Way] {
        match Way::of_this_kernel() {
            Way::Context => &[Way::Context, Way::Options],
            Way::Options => &[Way::Options],
        }
    }

    #[test]
    fn kernels_before_6_7_get_one_string_of_options() {
        let cases = [
            ("6.1.0-56-cloud-amd64", Way::Options),
            ("5.10.0-35-amd64", Way::Options),
            ("6.6.99", Way::Options),
            ("6.7.0", Way::Context),
            ("6.12.38+deb13-amd64", Way::Context),
            ("7.0-rc1", Way::Context),
            ("unknown", Way::Options),
        ];
        for (release, way) in cases {
            assert_eq!(Way::of_kernel(release), way, "{release}");
        }
    }

    #[test]
    fn options_that_the_kernel_would_cut_are_refused() {
        let text = options([7, 6].into_iter(), Some((8, 9))).unwrap();
        assert_eq!(text.to_str().unwrap(), "lowerdir=7:6,upperdir=8,workdir=9,volatile");
        // With the longest numbers that a process' usual limit of descriptors allows.
        options((0..LAYERS_MAX).map(|_| 1023), Some((1023, 1023))).unwrap();
        assert!(options(1000..2000, None).unwrap_err().to_string().contains("1000 layers"));
    }

    /// Layers with the names that are hardest to tell in a string.
    struct Image {
        directory: tempfile::TempDir,
        layers: Vec<PathBuf>,
    }

    impl Image {
        fn new(count: usize) -> Self {
            let directory = tempfile::Builder::new().prefix("strange \\:,=\"\u{e9}\n").tempdir_in("/var/tmp").unwrap();
            let long = "long".repeat(60);
            let layers: Vec<PathBuf> =
                (0..count).map(|number| directory.path().join(format!("{number}:,\\{long}/fs"))).collect();
            layers.iter().for_each(|layer| fs::create_dir_all(layer).unwrap());
            Self { directory, layers }
        }

        fn write(&self, layer: usize, path: &str, content: &str) {
            let path = self.layers[layer].join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        /// As an unpacked `.wh.<name>` is.
        fn write_whiteout(&self, layer: usize, path: &str) {
            let path = self.layers[layer].join(path);
            mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        }

        /// As an unpacked `.wh..wh..opq` is.
        fn make_opaque(&self, layer: usize, path: &str) {
            let path = self.layers[layer].join(path);
            fs::create_dir_all(&path).unwrap();
            setxattr(path, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        }

        fn scratch(&self) -> PathBuf {
            self.directory.path().join("scratch,:\\")
        }
    }

    fn read(root: &OwnedFd, path: &str) -> Option<String> {
        let file = openat(root, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut content = String::new();
        fs::File::from(file).read_to_string(&mut content).unwrap();
        Some(content)
    }

    fn names(root: &OwnedFd, path: &str) -> Vec<String> {
        let directory = openat(root, path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut buffer = vec![std::mem::MaybeUninit::uninit(); 1 << 16];
        let mut entries = RawDir::new(&directory, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            names.push(entry.unwrap().file_name().to_string_lossy().into_owned());
        }
        names.retain(|name| name != "." && name != "..");
        names.sort();
        names
    }

    /// Mounts as a shim does, and as it must: nothing stays mounted, and the working directory is as before.
    fn mount_as_shim(way: Way, image: &Image) -> io::Result<OwnedFd> {
        in_private_mounts(|| {
            let world = || {
                (
                    fs::read_to_string("/proc/thread-self/mountinfo").unwrap(),
                    fs::read_link("/proc/thread-self/cwd").unwrap(),
                )
            };
            let before = world();
            let result = writable(way, &image.layers, &image.scratch());
            assert_eq!(world(), before, "{way:?}");
            result
        })
    }

    fn three_layers() -> Image {
        let image = Image::new(3);
        image.write(0, "etc/passwd", "lowest");
        image.write(0, "etc/removed", "lowest");
        image.write(0, "opt/old/deep/file", "lowest");
        image.write(1, "etc/passwd", "middle");
        image.write_whiteout(1, "etc/removed");
        image.write(1, "opt/old/middle", "middle");
        image.make_opaque(2, "opt/old");
        image.write(2, "opt/old/new", "top");
        image
    }

    #[test]
    fn layers_merge_whatever_they_are_called() {
        for &way in ways() {
            let image = three_layers();
            let root = mount_as_shim(way, &image).unwrap();
            assert_eq!(read(&root, "etc/passwd").as_deref(), Some("middle"), "{way:?}");
            assert_eq!(names(&root, "etc"), ["passwd"], "a whiteout hides: {way:?}");
            assert_eq!(names(&root, "opt/old"), ["new"], "an opaque directory hides: {way:?}");
        }
    }

    #[test]
    fn writes_go_to_the_upper_directory_alone() {
        for &way in ways() {
            let image = three_layers();
            let root = mount_as_shim(way, &image).unwrap();
            mkdirat(&root, "made", Mode::from_raw_mode(0o755)).unwrap();
            let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC;
            let file = openat(&root, "etc/passwd", flags, Mode::empty()).unwrap();
            rustix::io::write(file.as_fd(), b"changed").unwrap();
            rustix::fs::unlinkat(&root, "opt/old/new", rustix::fs::AtFlags::empty()).unwrap();
            assert_eq!(read(&root, "etc/passwd").as_deref(), Some("changed"), "{way:?}");
            assert!(names(&root, "opt/old").is_empty(), "{way:?}");
            assert_eq!(fs::read_to_string(image.layers[1].join("etc/passwd")).unwrap(), "middle", "{way:?}");
            assert!(image.layers[2].join("opt/old/new").exists() && image.scratch().join("upper/made").is_dir());
        }
    }

    #[test]
    fn as_many_layers_merge_as_an_image_may_have() {
        let image = Image::new(LAYERS_MAX);
        for layer in 0..image.layers.len() {
            image.write(layer, &format!("from-{layer}"), "");
            image.write(layer, "top", &layer.to_string());
        }
        for &way in ways() {
            let root = read_only(way, &image.layers).unwrap();
            assert_eq!(names(&root, ".").len(), image.layers.len() + 1, "{way:?}");
            assert_eq!(read(&root, "top").unwrap(), (image.layers.len() - 1).to_string(), "{way:?}");
            let refused = mkdirat(&root, "made", Mode::from_raw_mode(0o755));
            assert_eq!(refused, Err(rustix::io::Errno::ROFS), "{way:?}");
        }
    }

    #[test]
    fn a_layer_that_is_gone_is_said_and_nothing_stays() {
        for &way in ways() {
            let image = three_layers();
            fs::remove_dir_all(&image.layers[1]).unwrap();
            let error = mount_as_shim(way, &image).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound, "{way:?}");
        }
    }
}
