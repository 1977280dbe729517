//! Kubeconfig files with everything embedded, and files that only their owner reads.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{Identity, PkiError};

/// A kubeconfig with everything embedded. `servers` are URLs: the first is the current context; more get contexts of their own
/// (`kontiki-2`, …), because a cluster of kubectl has one server.
#[must_use]
pub fn kubeconfig(ca_pem: &str, user: &str, identity: &Identity, servers: &[String]) -> String {
    let context = |at: usize| if at == 0 { "kontiki".to_owned() } else { format!("kontiki-{}", at + 1) };
    let embedded = |pem: &str| STANDARD.encode(pem);
    let clusters: Vec<Value> = servers
        .iter()
        .enumerate()
        .map(|(at, server)| {
            json!({"name": context(at), "cluster": {"server": server, "certificate-authority-data": embedded(ca_pem)}})
        })
        .collect();
    let contexts: Vec<Value> = (0..servers.len())
        .map(|at| json!({"name": context(at), "context": {"cluster": context(at), "user": user}}))
        .collect();
    let credentials = json!({
        "client-certificate-data": embedded(&identity.cert_pem),
        "client-key-data": embedded(&identity.key_pem),
    });
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "clusters": clusters,
        "users": [{"name": user, "user": credentials}],
        "contexts": contexts,
        "current-context": context(0),
    });
    serde_norway::to_string(&config).expect("a kubeconfig is plain data")
}

/// Writes a file that only its owner reads, in place of an older one, atomically.
pub fn write_private(path: &Path, contents: &str) -> Result<(), PkiError> {
    let mut part = path.as_os_str().to_owned();
    part.push(format!(".{}", std::process::id()));
    let part = Path::new(&part);
    let write = || {
        // Left over from a process of the same id that died here; its mode may be another.
        if part.exists() {
            fs::remove_file(part)?;
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(part)?;
        file.write_all(contents.as_bytes())?;
        file.sync_all()?;
        fs::rename(part, path)
    };
    write().map_err(|source| PkiError::File { path: path.to_owned(), source })
}
