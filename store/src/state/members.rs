//! The table of members as a part of the state: changed by commands, stored with the data, read by anyone.
//!
//! Stored under the id (8 bytes, the member) or under `removed` and the id (nothing).

use kontiki_api::etcdserverpb as pb;
use parking_lot::RwLockReadGuard;
use prost::Message;

use super::apply::Writer;
use super::{OpenError, Reader, State};
use crate::command::{AddMember, ChangeMember, Reply, Response};
use crate::ids::MemberId;
use crate::io::engine::{Engine, Family, Step};
use crate::membership::MemberTable;

const REMOVED: &[u8] = b"removed ";
const ID: usize = 8;

fn removed_key(id: MemberId) -> Vec<u8> {
    [REMOVED, &id.0.to_be_bytes()].concat()
}

/// Reads the stored table.
pub(crate) fn load(engine: &Engine) -> Result<MemberTable, OpenError> {
    let mut table = MemberTable::default();
    engine.scan(Family::Members, b"", &mut |key, value| {
        match key.strip_prefix(REMOVED) {
            Some(id) if key.len() > ID => {
                let id = id.try_into().map_err(|_| OpenError::Damaged("a removed member's id".to_owned()))?;
                table.restore_removed(MemberId(u64::from_be_bytes(id)));
            }
            _ => {
                let member = pb::Member::decode(value);
                table.restore(member.map_err(|error| OpenError::Damaged(format!("a member: {error}")))?);
            }
        }
        Ok::<_, OpenError>(Step::Next)
    })?;
    Ok(table)
}

impl State {
    /// Takes in what Raft's own configuration says: the members of the initial cluster are named only there.
    pub fn adopt_members<'a>(&mut self, members: impl Iterator<Item = (MemberId, &'a [String])>) {
        let (core, engine) = (self.core.clone(), self.engine.clone());
        let mut writer = Writer::new(&core, &engine, &mut self.stage, false);
        for (id, peer_urls) in members {
            writer.adopt_member(id, peer_urls);
        }
    }
}

impl Writer<'_> {
    fn adopt_member(&mut self, id: MemberId, peer_urls: &[String]) {
        if self.core.members.write().adopt(id, peer_urls) {
            self.store_member(id);
        }
    }

    pub(super) fn publish_member(&mut self, member: &pb::Member) {
        if self.core.members.write().publish(member) {
            self.store_member(MemberId(member.id));
        }
    }

    pub(super) fn add_member(&mut self, add: &AddMember) -> Reply {
        self.core.members.write().add(&add.member, add.max_learners)?;
        self.store_member(MemberId(add.member.id));
        Ok(Response::MemberChanged)
    }

    pub(super) fn change_member(&mut self, change: &ChangeMember) -> Reply {
        let id = MemberId(change.id);
        {
            let mut members = self.core.members.write();
            match change.promote {
                true => members.promote(id)?,
                false => members.update(id, &change.peer_urls)?,
            }
        }
        self.store_member(id);
        Ok(Response::MemberChanged)
    }

    pub(super) fn remove_member(&mut self, id: MemberId) -> Reply {
        self.core.members.write().remove(id)?;
        self.engine.delete(&mut self.stage.batch, Family::Members, &id.0.to_be_bytes());
        self.engine.put(&mut self.stage.batch, Family::Members, &removed_key(id), &[]);
        self.stage.members_changed = true;
        Ok(Response::MemberChanged)
    }

    fn store_member(&mut self, id: MemberId) {
        let bytes = self.core.members.read().get(id).map(Message::encode_to_vec);
        let bytes = bytes.expect("a member that was just changed is in the table");
        self.engine.put(&mut self.stage.batch, Family::Members, &id.0.to_be_bytes(), &bytes);
        self.stage.members_changed = true;
    }
}

impl Reader {
    /// The table of members. Held briefly: applying waits for it.
    pub fn members(&self) -> RwLockReadGuard<'_, MemberTable> {
        self.core.members.read()
    }

    /// Wakes when the table of members has changed.
    #[must_use]
    pub fn members_version(&self) -> tokio::sync::watch::Receiver<u64> {
        self.core.members_version.subscribe()
    }
}
