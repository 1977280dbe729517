//! Where users and roles pass between a state database and a file: the one place that knows how the state keeps them.
//!
//! The state of this program has none yet. So nothing goes out, and a file that brings some is refused: going on without
//! them would open to everybody what was closed.

use rocksdb::WriteBatch;

use super::import::ImportError;
use super::schema::AuthContents;
use crate::io::engine::Engine;
use crate::state::OpenError;

/// What the database holds.
pub(super) fn read(_: &Engine) -> Result<AuthContents, OpenError> {
    Ok(AuthContents::default())
}

/// Stores what a file brought.
pub(super) fn put(_: &Engine, _: &mut WriteBatch, contents: &AuthContents) -> Result<(), ImportError> {
    match contents.enabled || !contents.users.is_empty() || !contents.roles.is_empty() {
        true => Err(ImportError::Refused(
            "the snapshot holds users or roles, which cannot be taken over yet: nothing was restored".to_owned(),
        )),
        false => Ok(()),
    }
}
