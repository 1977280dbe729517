//! Commands that change what the cluster agrees on: alarms, the outcome of comparisons, versions.

use kontiki_api::etcdserverpb as pb;
use pb::AlarmType;
use pb::alarm_request::AlarmAction;

use super::Writer;
use crate::command::Response;
use crate::ids::MemberId;
use crate::maintenance::alarms::{Alarm, Cause};
use crate::maintenance::version::Version;
use crate::maintenance::{ClusterVersion, Quarantine};
use crate::state::agreed;

const CORRUPT: i32 = AlarmType::Corrupt as i32;

impl Writer<'_> {
    /// Answers the alarm that now is, or those that no longer are.
    pub(super) fn alarm(&mut self, request: &pb::AlarmRequest) -> pb::AlarmResponse {
        let member = MemberId(request.member_id);
        let mut answer = pb::AlarmResponse { header: self.header(), alarms: Vec::new() };
        match request.action() {
            AlarmAction::Get => {
                let alarms = self.core.agreed.read().alarms.matching(request.alarm, member);
                answer.alarms = alarms.into_iter().map(Alarm::to_message).collect();
            }
            AlarmAction::Activate if request.alarm == AlarmType::None as i32 => {}
            AlarmAction::Activate => {
                let alarm = Alarm { kind: request.alarm, member };
                self.raise(alarm, Cause::Asked);
                answer.alarms.push(alarm.to_message());
            }
            AlarmAction::Deactivate => {
                let alarms = self.core.agreed.read().alarms.clone();
                // A member that differs comes back by being rebuilt, not by being forgiven.
                let lowered = alarms.matching(request.alarm, member).into_iter();
                for alarm in lowered.filter(|alarm| alarm.kind != CORRUPT || !alarms.quarantines(alarm.member)) {
                    self.lower(alarm);
                    answer.alarms.push(alarm.to_message());
                }
            }
        }
        answer
    }

    pub(super) fn quarantine(&mut self, quarantine: Quarantine) -> Response {
        let alarm = Alarm::new(AlarmType::Corrupt, MemberId(quarantine.member));
        if quarantine.raised {
            self.raise(alarm, Cause::Differs);
        } else if self.core.agreed.read().alarms.cause(alarm) == Some(Cause::Differs) {
            // One that a client has raised is for a client to lower.
            self.lower(alarm);
        }
        Response::Agreed
    }

    pub(super) fn set_cluster_version(&mut self, body: &ClusterVersion) -> Response {
        // Only a parsed version is ever proposed.
        if let Some(version) = Version::parse(&body.version) {
            self.core.agreed.write().cluster_version = Some(version);
            agreed::put_cluster_version(self.engine, &mut self.stage.batch, version);
            self.stage.agreed = true;
        }
        Response::Agreed
    }

    pub(super) fn set_downgrade(&mut self, info: &pb::DowngradeInfo) -> Response {
        let target = Version::parse(&info.target_version).filter(|_| info.enabled);
        self.core.agreed.write().downgrade = target;
        agreed::put_downgrade(self.engine, &mut self.stage.batch, target);
        self.stage.agreed = true;
        Response::Agreed
    }

    fn raise(&mut self, alarm: Alarm, cause: Cause) {
        let mut state = self.core.agreed.write();
        if state.alarms.cause(alarm).is_none() {
            state.alarms.raise(alarm, cause);
            self.core.alarm_flags.follow(&state.alarms);
            agreed::put_alarm(self.engine, &mut self.stage.batch, alarm, cause);
            self.stage.agreed = true;
        }
    }

    fn lower(&mut self, alarm: Alarm) {
        let mut state = self.core.agreed.write();
        if state.alarms.lower(alarm) {
            self.core.alarm_flags.follow(&state.alarms);
            agreed::delete_alarm(self.engine, &mut self.stage.batch, alarm);
            self.stage.agreed = true;
        }
    }
}
