//! What an image's own documents say: its configuration, and the platform it is for.
//!
//! Importing and pulling read the same documents, so what they accept is decided here once.

use oci_spec::image::{Arch, Descriptor, ImageConfiguration, Os};

use super::ImageConfig;
use super::reference::checked_digest;

/// An image configuration as far as it matters here.
pub(super) struct ParsedConfig {
    pub(super) diff_ids: Vec<String>,
    pub(super) config: ImageConfig,
}

pub(super) fn parse_config(bytes: &[u8]) -> Result<ParsedConfig, String> {
    let document: ImageConfiguration =
        serde_json::from_slice(bytes).map_err(|error| format!("image configuration: {error}"))?;
    let diff_ids: Result<Vec<String>, String> = document
        .rootfs()
        .diff_ids()
        .iter()
        .map(|diff_id| checked_digest(diff_id).map_err(|what| format!("image configuration: {diff_id}: {what}")))
        .collect();
    let mut config = ImageConfig::default();
    if let Some(run) = document.config() {
        config.env = run.env().clone().unwrap_or_default();
        config.entrypoint = run.entrypoint().clone().unwrap_or_default();
        config.cmd = run.cmd().clone().unwrap_or_default();
        config.working_dir = run.working_dir().clone().unwrap_or_default();
        config.user = run.user().clone().unwrap_or_default();
        config.stop_signal = run.stop_signal().clone();
        config.volumes = run.volumes().clone().unwrap_or_default();
    }
    Ok(ParsedConfig { diff_ids: diff_ids?, config })
}

/// Whether an image is for this machine; one that does not say is taken at its word.
pub(super) fn is_for_this_machine(descriptor: &Descriptor) -> bool {
    match descriptor.platform() {
        None => true,
        Some(platform) => *platform.os() == Os::Linux && platform.architecture().to_string() == arch(),
    }
}

/// This machine's architecture in OCI's words.
pub(super) fn arch() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => Arch::Amd64,
        "aarch64" => Arch::ARM64,
        other => Arch::Other(other.to_owned()),
    };
    arch.to_string()
}
