//! What the cluster has agreed on beside the keys: alarms, its version, a downgrade under way.
//!
//! A few records among the state's marks, written in the same batch as the entry that changed them.

use kontiki_api::etcdserverpb as pb;
use prost::Message;
use rocksdb::WriteBatch;

use super::OpenError;
use crate::ids::MemberId;
use crate::io::engine::{Engine, Family, Step};
use crate::maintenance::alarms::{Alarm, Alarms, Cause};
use crate::maintenance::version::Version;

/// A copy is cheap: it is a handful of entries at most.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Agreed {
    pub alarms: Alarms,
    /// The version that all members speak; none until the leader has asked them.
    pub cluster_version: Option<Version>,
    /// The target of a downgrade under way.
    pub downgrade: Option<Version>,
}

const ALARM_KEY: &[u8] = b"alarm/";
const VERSION_KEY: &[u8] = b"cluster-version";
const DOWNGRADE_KEY: &[u8] = b"downgrade";

impl Agreed {
    pub(crate) fn load(engine: &Engine) -> Result<Self, OpenError> {
        let mut alarms = Alarms::default();
        engine.scan(Family::Meta, ALARM_KEY, &mut |key, value| {
            let Some(place) = key.strip_prefix(ALARM_KEY) else { return Ok(Step::Stop) };
            let (alarm, cause) = decode_alarm(place, value)
                .ok_or_else(|| OpenError::Damaged("an alarm has an unknown form".to_owned()))?;
            alarms.raise(alarm, cause);
            Ok::<_, OpenError>(Step::Next)
        })?;
        let version = |key: &[u8]| -> Result<Option<Version>, OpenError> {
            let Some(bytes) = engine.get(Family::Meta, key)? else { return Ok(None) };
            let version = std::str::from_utf8(&bytes).ok().and_then(Version::parse);
            version.map(Some).ok_or_else(|| OpenError::Damaged("a version has an unknown form".to_owned()))
        };
        Ok(Self { alarms, cluster_version: version(VERSION_KEY)?, downgrade: version(DOWNGRADE_KEY)? })
    }

    /// As `Status` shows it.
    #[must_use]
    pub fn downgrade_info(&self) -> pb::DowngradeInfo {
        pb::DowngradeInfo {
            enabled: self.downgrade.is_some(),
            target_version: self.downgrade.map(|target| target.to_string()).unwrap_or_default(),
        }
    }
}

/// `kind 4 | member 8`, big-endian.
fn alarm_key(alarm: Alarm) -> Vec<u8> {
    let mut key = ALARM_KEY.to_vec();
    key.extend_from_slice(&alarm.kind.to_be_bytes());
    key.extend_from_slice(&alarm.member.0.to_be_bytes());
    key
}

fn decode_alarm(place: &[u8], value: &[u8]) -> Option<(Alarm, Cause)> {
    let (kind, member) = place.split_at_checked(4)?;
    let kind = i32::from_be_bytes(kind.try_into().ok()?);
    let member = MemberId(u64::from_be_bytes(member.try_into().ok()?));
    let [cause] = value else { return None };
    Some((Alarm { kind, member }, Cause::from_number(*cause)?))
}

pub(crate) fn put_alarm(engine: &Engine, batch: &mut WriteBatch, alarm: Alarm, cause: Cause) {
    engine.put(batch, Family::Meta, &alarm_key(alarm), &[cause.number()]);
}

pub(crate) fn delete_alarm(engine: &Engine, batch: &mut WriteBatch, alarm: Alarm) {
    engine.delete(batch, Family::Meta, &alarm_key(alarm));
}

pub(crate) fn put_cluster_version(engine: &Engine, batch: &mut WriteBatch, version: Version) {
    engine.put(batch, Family::Meta, VERSION_KEY, version.to_string().as_bytes());
}

pub(crate) fn put_downgrade(engine: &Engine, batch: &mut WriteBatch, target: Option<Version>) {
    match target {
        Some(target) => engine.put(batch, Family::Meta, DOWNGRADE_KEY, target.to_string().as_bytes()),
        None => engine.delete(batch, Family::Meta, DOWNGRADE_KEY),
    }
}

/// What belongs to a digest of the whole state: the same bytes on every member.
pub(crate) fn canonical(agreed: &Agreed) -> Vec<u8> {
    let mut bytes = Vec::new();
    for alarm in agreed.alarms.matching(pb::AlarmType::None as i32, MemberId(0)) {
        bytes.extend_from_slice(&alarm.to_message().encode_to_vec());
    }
    bytes.extend_from_slice(&agreed.downgrade_info().encode_to_vec());
    let version = agreed.cluster_version.map(|version| version.to_string()).unwrap_or_default();
    bytes.extend_from_slice(version.as_bytes());
    bytes
}
