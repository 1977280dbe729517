//! `hostPath`: a path of the node, checked or made as its type says.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum HostPathError {
    #[error("hostPath type check failed: {path} is not a {wanted}")]
    Type { path: String, wanted: &'static str },
    #[error("unknown hostPath type {0:?}")]
    Unknown(String),
    #[error("{path}: {source}")]
    Io { path: String, source: io::Error },
}

/// Checks that `path` is what `type_` says, making it first for the `…OrCreate` types. The empty type checks nothing.
pub fn prepare(path: &Path, type_: &str) -> Result<(), HostPathError> {
    let text = || path.display().to_string();
    let io = |source| HostPathError::Io { path: text(), source };
    match type_ {
        "DirectoryOrCreate" if !path.exists() => {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(io)?
        }
        "FileOrCreate" if !path.exists() => {
            std::fs::OpenOptions::new().create(true).append(true).mode(0o644).open(path).map_err(io)?;
        }
        _ => {}
    }
    let found = std::fs::metadata(path).map(|metadata| metadata.file_type());
    let is = |check: &dyn Fn(&std::fs::FileType) -> bool| found.as_ref().is_ok_and(check);
    let (is_fine, wanted) = match type_ {
        "" => (true, ""),
        "Directory" | "DirectoryOrCreate" => (is(&|file| file.is_dir()), "directory"),
        "File" | "FileOrCreate" => (is(&|file| file.is_file()), "file"),
        "Socket" => (is(&|file| file.is_socket()), "socket file"),
        "CharDevice" => (is(&|file| file.is_char_device()), "character device"),
        "BlockDevice" => (is(&|file| file.is_block_device()), "block device"),
        other => return Err(HostPathError::Unknown(other.to_owned())),
    };
    if is_fine { Ok(()) } else { Err(HostPathError::Type { path: text(), wanted }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        assert_eq!(
            prepare(&path, "Directory").unwrap_err().to_string(),
            format!("hostPath type check failed: {} is not a directory", path.display())
        );
        prepare(&path, "DirectoryOrCreate").unwrap();
        prepare(&path, "Directory").unwrap();
        assert!(matches!(prepare(&path, "File"), Err(HostPathError::Type { .. })));
        prepare(&path.join("f"), "FileOrCreate").unwrap();
        prepare(&path.join("f"), "File").unwrap();
        prepare(Path::new("/dev/null"), "CharDevice").unwrap();
        prepare(&path.join("none"), "").unwrap();
    }
}
