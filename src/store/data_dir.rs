//! The data directory before anything is opened in it: made with etcd's permissions, and refused where it is etcd's own.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// What only the owner may enter, as etcd has it.
const MODE: u32 = 0o700;

/// Makes the directories of a member; answers whether there is a member in them already. `wal_dir` is the log's, if it has
/// one of its own.
pub fn prepare(dir: &Path, wal_dir: Option<&Path>) -> Result<bool> {
    let member = dir.join("member");
    if member.join("wal").exists() || member.join("snap").join("db").exists() {
        bail!(
            "the data directory {} was written by etcd, whose files Kontiki does not read: take a snapshot from etcd \
             (`etcdctl snapshot save FILE`), import it with `kontiki snapshot restore` into a new directory, and start \
             with that as --data-dir",
            dir.display()
        );
    }
    let log = wal_dir.map_or_else(|| member.join("log"), Path::to_owned);
    let has_log = fs::read_dir(&log).is_ok_and(|mut entries| entries.next().is_some());
    for dir in [Some(dir), Some(&*member), wal_dir].into_iter().flatten() {
        make(dir).with_context(|| format!("cannot make the directory {}", dir.display()))?;
    }
    Ok(has_log)
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::metadata(dir) {
        Ok(found) if !found.is_dir() => Err(io::ErrorKind::NotADirectory.into()),
        Ok(found) => {
            let mode = found.permissions().mode() & 0o777;
            if mode != MODE {
                tracing::warn!(
                    dir = %dir.display(),
                    permission = format!("{mode:o}"),
                    recommended = format!("{MODE:o}"),
                    "the directory exists, but others may read it"
                );
            }
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(MODE).create(dir)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_is_the_owners_alone() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("a/b.etcd");
        assert!(!prepare(&dir, None).unwrap());
        for made in [&dir, &dir.join("member")] {
            assert_eq!(fs::metadata(made).unwrap().permissions().mode() & 0o777, 0o700);
        }
        assert!(!prepare(&dir, None).unwrap());
    }

    #[test]
    fn a_member_is_where_its_log_is() {
        let parent = tempfile::tempdir().unwrap();
        let (dir, wal) = (parent.path().join("d"), parent.path().join("w"));
        prepare(&dir, Some(&wal)).unwrap();
        fs::write(wal.join("0.log"), "x").unwrap();
        assert!(prepare(&dir, Some(&wal)).unwrap() && !prepare(&dir, None).unwrap());
    }

    #[test]
    fn etcds_own_directory_is_refused_with_the_way_out() {
        for file in ["member/wal/0000000000000000-0000000000000000.wal", "member/snap/db"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "x").unwrap();
            let refused = prepare(dir.path(), None).unwrap_err().to_string();
            assert!(
                refused.contains("was written by etcd") && refused.contains("kontiki snapshot restore"),
                "{refused}"
            );
        }
    }
}
