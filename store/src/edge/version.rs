//! The etcd release whose behaviour is served: clients choose features by it (`Status.version`, `/version`), and etcd's
//! tools choose flags by it (`--version`). Who builds for a test suite of another release sets `KONTIKI_ETCD_VERSION`.

pub const ETCD_VERSION: &str = match option_env!("KONTIKI_ETCD_VERSION") {
    Some(version) => version,
    None => "3.6.14",
};

/// The version of the stored data that goes with [`ETCD_VERSION`]: 3.6.0 of 3.6.14.
pub const STORAGE_VERSION: &str = match std::str::from_utf8(STORAGE.0.split_at(STORAGE.1).0) {
    Ok(version) => version,
    Err(_) => panic!("KONTIKI_ETCD_VERSION is not ASCII"),
};

/// `major.minor.0`, and its length.
const STORAGE: ([u8; 16], usize) = {
    let version = ETCD_VERSION.as_bytes();
    let mut storage = [0; 16];
    let (mut at, mut dots) = (0, 0);
    while dots < 2 {
        assert!(at < version.len() && at < storage.len() - 1, "KONTIKI_ETCD_VERSION is not major.minor.patch");
        storage[at] = version[at];
        dots += if version[at] == b'.' { 1 } else { 0 };
        at += 1;
    }
    storage[at] = b'0';
    (storage, at + 1)
};

/// What `/version` says, on the client's port and on the peers'.
#[must_use]
pub fn version_json(cluster: Option<String>) -> String {
    let storage = cluster.clone().unwrap_or_else(|| "unknown".to_owned());
    let cluster = cluster.unwrap_or_else(|| "not_decided".to_owned());
    serde_json::json!({"etcdserver": ETCD_VERSION, "etcdcluster": cluster, "storage": storage}).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_storage_version_is_the_minor_release() {
        let (minor, patch) = STORAGE_VERSION.rsplit_once('.').unwrap();
        assert!(ETCD_VERSION.starts_with(minor) && patch == "0", "{ETCD_VERSION} {STORAGE_VERSION}");
    }
}
