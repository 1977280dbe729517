//! The replicated table of alarms, and what an alarm forbids.
//!
//! NOSPACE of any member stops what needs space, CORRUPT stops every change, for the whole cluster, as etcd has it. A
//! member that a comparison has found to differ is another matter: it is listed as CORRUPT too, but only it stops serving,
//! until it has been rebuilt from the others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};

use kontiki_api::etcdserverpb as pb;
use pb::AlarmType;

use super::quota;
use crate::command::Command;
use crate::error::StoreError;
use crate::ids::MemberId;

/// Who raised an alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A client, or a member for its own space.
    Asked,
    /// The comparison of the members' contents.
    Differs,
}

impl Cause {
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Asked => 0,
            Self::Differs => 1,
        }
    }

    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Asked),
            1 => Some(Self::Differs),
            _ => None,
        }
    }
}

/// An alarm's place in the table: its type's number, and its member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    pub kind: i32,
    pub member: MemberId,
}

impl Alarm {
    #[must_use]
    pub fn new(kind: AlarmType, member: MemberId) -> Self {
        Self { kind: kind as i32, member }
    }

    /// As it goes to clients.
    #[must_use]
    pub fn to_message(self) -> pb::AlarmMember {
        pb::AlarmMember { member_id: self.member.0, alarm: self.kind }
    }
}

/// etcd's text for an alarm in `Status.errors`: Go's rendering of the message, with its blank at the end.
#[must_use]
pub fn text(alarm: &pb::AlarmMember) -> String {
    let member = if alarm.member_id == 0 { String::new() } else { format!("memberID:{} ", alarm.member_id) };
    format!("{member}alarm:{} ", alarm.alarm().as_str_name())
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    raised: BTreeMap<Alarm, Cause>,
}

impl Alarms {
    /// Raises an alarm; one that is raised already stays as it is.
    pub fn raise(&mut self, alarm: Alarm, cause: Cause) {
        self.raised.entry(alarm).or_insert(cause);
    }

    /// Whether there was such an alarm.
    pub fn lower(&mut self, alarm: Alarm) -> bool {
        self.raised.remove(&alarm).is_some()
    }

    #[must_use]
    pub fn cause(&self, alarm: Alarm) -> Option<Cause> {
        self.raised.get(&alarm).copied()
    }

    /// The alarms of a type (`NONE`: any) and a member (0: any), in a fixed order.
    #[must_use]
    pub fn matching(&self, kind: i32, member: MemberId) -> Vec<Alarm> {
        let wanted = |alarm: &&Alarm| {
            (kind == AlarmType::None as i32 || alarm.kind == kind) && (member.0 == 0 || alarm.member == member)
        };
        self.raised.keys().filter(wanted).copied().collect()
    }

    /// Whether this member must not serve until it is rebuilt.
    #[must_use]
    pub fn quarantines(&self, member: MemberId) -> bool {
        member.0 != 0 && self.cause(Alarm::new(AlarmType::Corrupt, member)) == Some(Cause::Differs)
    }

    fn bits(&self) -> u8 {
        let bit = |(alarm, cause): (&Alarm, &Cause)| match AlarmType::try_from(alarm.kind) {
            Ok(AlarmType::Nospace) => NO_SPACE,
            // One member that is known to differ does not stop the others; not knowing which one does.
            Ok(AlarmType::Corrupt) if *cause == Cause::Asked || alarm.member.0 == 0 => CORRUPT,
            _ => 0,
        };
        self.raised.iter().map(bit).fold(0, |all, bit| all | bit)
    }
}

const NO_SPACE: u8 = 1;
const CORRUPT: u8 = 2;

/// What the alarms forbid, readable without a lock.
#[derive(Debug, Default)]
pub struct AlarmFlags(AtomicU8);

impl AlarmFlags {
    pub fn follow(&self, alarms: &Alarms) {
        self.0.store(alarms.bits(), Ordering::Release);
    }

    /// Why `command` must not be applied, if so: a function of the replicated alarms alone.
    #[must_use]
    pub fn refusal(&self, command: &Command) -> Option<StoreError> {
        let bits = self.0.load(Ordering::Acquire);
        if bits == 0 {
            None
        } else if bits & CORRUPT != 0 && is_change(command) {
            Some(StoreError::Corrupt)
        } else if bits & NO_SPACE != 0 && quota::cost(command) > 0 {
            Some(StoreError::NoSpace)
        } else {
            None
        }
    }
}

/// Whether a corrupt cluster must not do it. What repairs one, and what keeps it a cluster, goes on.
fn is_change(command: &Command) -> bool {
    matches!(
        command,
        Command::Put(_)
            | Command::DeleteRange(_)
            | Command::Txn(_)
            | Command::Compact(_)
            | Command::LeaseGrant(_)
            | Command::LeaseRevoke(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: MemberId = MemberId(0xa);
    const B: MemberId = MemberId(0xb);

    fn commands() -> Vec<(&'static str, Command)> {
        let put = |txn: &mut Vec<pb::RequestOp>| {
            txn.push(pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(pb::PutRequest::default())) });
        };
        let mut with_put = pb::TxnRequest::default();
        put(&mut with_put.failure);
        let nested = pb::TxnRequest {
            success: vec![pb::RequestOp { request: Some(pb::request_op::Request::RequestTxn(with_put.clone())) }],
            ..pb::TxnRequest::default()
        };
        let deleting = pb::TxnRequest {
            success: vec![pb::RequestOp {
                request: Some(pb::request_op::Request::RequestDeleteRange(pb::DeleteRangeRequest::default())),
            }],
            ..pb::TxnRequest::default()
        };
        vec![
            ("put", Command::Put(pb::PutRequest::default())),
            ("txn with a put", Command::Txn(with_put)),
            ("txn with a nested put", Command::Txn(nested)),
            ("txn that deletes", Command::Txn(deleting)),
            ("delete", Command::DeleteRange(pb::DeleteRangeRequest::default())),
            ("compact", Command::Compact(pb::CompactionRequest::default())),
            ("grant", Command::LeaseGrant(pb::LeaseGrantRequest::default())),
            ("revoke", Command::LeaseRevoke(pb::LeaseRevokeRequest::default())),
            ("alarm", Command::Alarm(pb::AlarmRequest::default())),
            ("publish", Command::PublishMember(pb::Member::default())),
        ]
    }

    fn refused(alarms: &Alarms) -> Vec<&'static str> {
        let flags = AlarmFlags::default();
        flags.follow(alarms);
        commands().iter().filter(|(_, command)| flags.refusal(command).is_some()).map(|(name, _)| *name).collect()
    }

    #[test]
    fn no_space_stops_what_needs_space() {
        let mut alarms = Alarms::default();
        assert!(refused(&alarms).is_empty());
        alarms.raise(Alarm::new(AlarmType::Nospace, A), Cause::Asked);
        assert_eq!(refused(&alarms), ["put", "txn with a put", "txn with a nested put", "grant"]);
        alarms.raise(Alarm::new(AlarmType::Nospace, B), Cause::Asked);
        assert!(alarms.lower(Alarm::new(AlarmType::Nospace, A)));
        assert_eq!(refused(&alarms).len(), 4, "the other member's alarm stands");
        assert!(alarms.lower(Alarm::new(AlarmType::Nospace, B)));
        assert!(refused(&alarms).is_empty());
    }

    #[test]
    fn a_corrupt_cluster_changes_nothing_but_its_alarms() {
        let mut alarms = Alarms::default();
        alarms.raise(Alarm::new(AlarmType::Corrupt, A), Cause::Asked);
        let all: Vec<&str> =
            commands().iter().map(|(name, _)| *name).filter(|n| !["alarm", "publish"].contains(n)).collect();
        assert_eq!(refused(&alarms), all);
    }

    #[test]
    fn one_member_that_differs_stops_alone_and_an_unknown_one_stops_all() {
        let mut alarms = Alarms::default();
        alarms.raise(Alarm::new(AlarmType::Corrupt, A), Cause::Differs);
        assert!(refused(&alarms).is_empty());
        assert!(alarms.quarantines(A) && !alarms.quarantines(B));
        alarms.raise(Alarm::new(AlarmType::Corrupt, MemberId(0)), Cause::Differs);
        assert!(refused(&alarms).contains(&"delete"));
    }

    #[test]
    fn alarms_are_listed_by_type_and_member() {
        let mut alarms = Alarms::default();
        for (kind, member) in [(AlarmType::Nospace, B), (AlarmType::Corrupt, A), (AlarmType::Nospace, A)] {
            alarms.raise(Alarm::new(kind, member), Cause::Asked);
        }
        let list = |kind: AlarmType, member| -> Vec<String> {
            alarms.matching(kind as i32, member).into_iter().map(|alarm| text(&alarm.to_message())).collect()
        };
        assert_eq!(list(AlarmType::Nospace, MemberId(0)), ["memberID:10 alarm:NOSPACE ", "memberID:11 alarm:NOSPACE "]);
        assert_eq!(list(AlarmType::None, A), ["memberID:10 alarm:NOSPACE ", "memberID:10 alarm:CORRUPT "]);
        assert_eq!(list(AlarmType::Corrupt, B), [""; 0]);
        assert_eq!(text(&Alarm::new(AlarmType::Corrupt, MemberId(0)).to_message()), "alarm:CORRUPT ");
    }
}
