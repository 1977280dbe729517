//! Limits of images; what is beyond them is refused with a message that names the limit.

use std::time::Duration;

/// One layer unpacked; an archive that claims more is a bomb or a mistake.
pub const LAYER_BYTES_MAX: u64 = 64 << 30;
/// What an archive may put before one file: long names and extended attributes, kept in memory.
pub const LAYER_HEADER_BYTES_MAX: u64 = 4 << 20;
/// Symbolic links to absent directories that the path of one file in a layer may lead through.
pub const PARENT_LINKS_MAX: usize = 8;
/// A manifest, an index or an image configuration.
pub const DOCUMENT_BYTES_MAX: usize = 4 << 20;
/// Layers of an image: overlayfs stacks at most 500.
pub const LAYERS_MAX: usize = 500;
/// Layers of one pull that are fetched and unpacked at the same time.
pub const PARALLEL_LAYERS: usize = 3;
/// Redirects that a registry may answer for one blob.
pub const REDIRECTS_MAX: usize = 5;
/// Connecting, each answer's first byte, and a small document as a whole.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long a layer may come to a standstill before its pull fails.
pub const STALL_LIMIT: Duration = Duration::from_secs(60);
