//! Every bound of the control plane, with what happens when it is reached.

/// Operations in one JSON patch; more are answered 413, as Kubernetes does.
pub const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;

/// Bytes that the `copy` operations of one JSON patch may duplicate; more are answered 413.
pub const JSON_PATCH_COPIED_SIZE_MAX: usize = 3 << 20;
