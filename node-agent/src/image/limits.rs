//! Limits of images; what is beyond them is refused with a message that names the limit.

/// One layer unpacked; an archive that claims more is a bomb or a mistake.
pub const LAYER_BYTES_MAX: u64 = 64 << 30;
/// A manifest, an index or an image configuration.
pub const DOCUMENT_BYTES_MAX: usize = 4 << 20;
/// Layers of an image: overlayfs stacks at most 500.
pub const LAYERS_MAX: usize = 500;
/// Layers of one pull that are fetched and unpacked at the same time.
pub const PARALLEL_LAYERS: usize = 3;
/// Redirects that a registry may answer for one blob.
pub const REDIRECTS_MAX: usize = 5;
