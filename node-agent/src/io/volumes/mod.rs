//! Volumes on disk: directories made, contents written atomically, host paths checked.

mod atomic;
mod host_path;

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

pub use atomic::write as write_atomically;
pub use host_path::{HostPathError, prepare as prepare_host_path};

/// A directory that everybody may write to, as an `emptyDir` is; group-owned with the setgid bit where the pod has an fsGroup.
pub fn make_empty_dir(path: &Path, group: Option<u32>) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    std::os::unix::fs::chown(path, None, group)?;
    // After the chown, which clears the setgid bit.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}
