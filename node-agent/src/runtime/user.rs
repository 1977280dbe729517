//! From an image's `USER` (`name`, `uid`, `name:group`, `uid:gid`) to numbers, by the image's own files.
//!
//! The files are read through a detached read-only overlay of the layers and resolved inside it (`openat2` with
//! `RESOLVE_IN_ROOT`), so that a symbolic link in an image cannot make the agent read a file of the node.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::limits::USER_FILE_SIZE_MAX;
use super::overlay;

/// Who a container runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
    /// Groups of `etc/group` that list the user by name, without `gid`.
    pub groups: Vec<u32>,
    pub home: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    #[error("cannot read the image's {file}: {source}")]
    Io { file: &'static str, source: io::Error },
}

/// Resolves `spec` (empty is root) in the image made of `layers`, lowest first. Blocks on the disk for about 1 ms.
pub fn lookup_user(layers: &[PathBuf], spec: &str) -> Result<User, UserError> {
    let root = open_merged(layers).map_err(|source| UserError::Io { file: "layers", source })?;
    let read = |file: &'static str| match &root {
        Some(root) => read_below(root.as_fd(), file).map_err(|source| UserError::Io { file, source }),
        None => Ok(None),
    };
    let (passwd, group) = (read("etc/passwd")?.unwrap_or_default(), read("etc/group")?.unwrap_or_default());
    resolve(&passwd, &group, spec)
}

/// The home directory of `uid` in a mounted image; `/` when the image does not say.
pub(super) fn home_of(root: BorrowedFd<'_>, uid: u32) -> String {
    let passwd = read_below(root, "etc/passwd").ok().flatten().unwrap_or_default();
    let uid = uid.to_string();
    let entry = passwd.lines().filter_map(PasswdEntry::parse).find(|entry| entry.matches(&uid));
    entry.map_or("/", |entry| entry.home).to_owned()
}

fn read_below(root: BorrowedFd<'_>, path: &str) -> io::Result<Option<String>> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), how) {
        Ok(file) => read_small(std::fs::File::from(file)).map(Some),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn read_small(file: std::fs::File) -> io::Result<String> {
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > USER_FILE_SIZE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file of reasonable size"));
    }
    let mut bytes = Vec::new();
    file.take(USER_FILE_SIZE_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// One root with all layers merged; `None` for an image of no layers.
fn open_merged(layers: &[PathBuf]) -> io::Result<Option<OwnedFd>> {
    match layers {
        [] => Ok(None),
        // Nothing to merge with, and overlayfs refuses it.
        [layer] => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(Some(rustix::fs::open(layer, flags, Mode::empty())?))
        }
        layers => overlay::mount_read_only(layers).map(Some),
    }
}

/// The decision, apart from the files.
fn resolve(passwd: &str, group: &str, spec: &str) -> Result<User, UserError> {
    let (user_part, group_part) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let user_part = if user_part.is_empty() { "0" } else { user_part };
    let entry = passwd.lines().filter_map(PasswdEntry::parse).find(|entry| entry.matches(user_part));
    let uid = match (&entry, user_part.parse()) {
        (Some(entry), _) => entry.uid,
        (None, Ok(uid)) => uid,
        (None, Err(_)) => return Err(UserError::UnknownUser(user_part.to_owned())),
    };
    let mut user = User { uid, gid: 0, groups: Vec::new(), home: entry.as_ref().map(|entry| entry.home.to_owned()) };
    if let Some(entry) = &entry {
        user.gid = entry.gid;
        user.groups = memberships(group, entry.name);
    }
    if let Some(group_part) = group_part.filter(|part| !part.is_empty()) {
        user.gid = find_group(group, group_part)?;
        // An explicit group replaces the image's memberships, as in other runtimes.
        user.groups.clear();
    }
    let gid = user.gid;
    user.groups.retain(|group| *group != gid);
    Ok(user)
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdEntry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let (_comment, home) = (fields.next(), fields.next().unwrap_or("/"));
        Some(Self { name, uid, gid, home: if home.is_empty() { "/" } else { home } })
    }

    fn matches(&self, wanted: &str) -> bool {
        self.name == wanted || wanted.parse() == Ok(self.uid)
    }
}

/// (name, gid, comma-separated members) of a line of `etc/group`.
fn parse_group(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.trim().split(':');
    let (name, _password) = (fields.next()?, fields.next()?);
    Some((name, fields.next()?.parse().ok()?, fields.next().unwrap_or_default()))
}

fn memberships(group: &str, user: &str) -> Vec<u32> {
    let mut gids: Vec<u32> = group
        .lines()
        .filter_map(parse_group)
        .filter(|(_, _, members)| members.split(',').any(|member| member == user))
        .map(|(_, gid, _)| gid)
        .collect();
    gids.sort_unstable();
    gids.dedup();
    gids
}

fn find_group(group: &str, wanted: &str) -> Result<u32, UserError> {
    let found =
        group.lines().filter_map(parse_group).find(|(name, gid, _)| *name == wanted || wanted.parse() == Ok(*gid));
    match (found, wanted.parse()) {
        (Some((_, gid, _)), _) | (None, Ok(gid)) => Ok(gid),
        (None, Err(_)) => Err(UserError::UnknownGroup(wanted.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:www:/var/www:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlogs:x:40:root,web\nextra:x:41:web\n";

    #[test]
    fn users_are_those_of_the_merged_layers() {
        let directory = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = ["low", "top"].iter().map(|name| directory.path().join(name)).collect();
        for layer in &layers {
            std::fs::create_dir_all(layer.join("etc")).unwrap();
        }
        // A link in one layer to a file of the other, and a file that the upper layer takes away.
        std::fs::write(layers[0].join("etc/real"), PASSWD).unwrap();
        std::os::unix::fs::symlink("/etc/real", layers[1].join("etc/passwd")).unwrap();
        std::fs::write(layers[0].join("etc/group"), GROUP).unwrap();
        let removed = layers[1].join("etc/group");
        rustix::fs::mknodat(rustix::fs::CWD, removed, rustix::fs::FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        let user = lookup_user(&layers, "web").unwrap();
        assert_eq!((user.uid, user.gid, user.groups), (33, 34, Vec::new()));
        assert!(matches!(lookup_user(&layers, "web:logs"), Err(UserError::UnknownGroup(name)) if name == "logs"));
    }

    fn check(spec: &str, uid: u32, gid: u32, groups: &[u32], home: Option<&str>) {
        let user = resolve(PASSWD, GROUP, spec).unwrap();
        assert_eq!(user, User { uid, gid, groups: groups.to_vec(), home: home.map(str::to_owned) }, "{spec}");
    }

    #[test]
    fn users_resolve_by_name_and_by_number() {
        check("", 0, 0, &[40], Some("/root"));
        check("web", 33, 34, &[40, 41], Some("/var/www"));
        check("33", 33, 34, &[40, 41], Some("/var/www"));
        check("1000", 1000, 0, &[], None);
        check("web:logs", 33, 40, &[], Some("/var/www"));
        check("1000:1001", 1000, 1001, &[], None);
    }

    #[test]
    fn unknown_names_are_errors() {
        assert!(matches!(resolve(PASSWD, GROUP, "nobody"), Err(UserError::UnknownUser(name)) if name == "nobody"));
        assert!(matches!(resolve(PASSWD, GROUP, "web:none"), Err(UserError::UnknownGroup(name)) if name == "none"));
    }
}
