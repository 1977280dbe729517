//! Users and roles between a state database and a file; how the state keeps them is its own matter.

use rocksdb::WriteBatch;

use super::import::ImportError;
use super::schema::AuthContents;
use crate::io::engine::Engine;
use crate::state::OpenError;
use crate::state::auth::{self, Messages};

/// What the database holds.
pub(super) fn read(engine: &Engine) -> Result<AuthContents, OpenError> {
    let Some(Messages { enabled, revision, roles, users }) = auth::messages(engine)? else {
        return Ok(AuthContents::default());
    };
    Ok(AuthContents { enabled, revision, roles, users })
}

/// Stores what a file brought.
pub(super) fn put(engine: &Engine, batch: &mut WriteBatch, contents: &AuthContents) -> Result<(), ImportError> {
    if *contents == AuthContents::default() {
        return Ok(());
    }
    let AuthContents { enabled, revision, roles, users } = contents.clone();
    let messages = Messages { enabled, revision: revision.max(1), roles, users };
    auth::put_messages(engine, batch, &messages).map_err(|error| ImportError::Refused(error.to_string()))
}
