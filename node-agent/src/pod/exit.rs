//! How an ended container is told to the user: reason, code, message.

use k8s_openapi::jiff::Timestamp;

use crate::limits::{TERMINATION_LOG_BYTES_MAX, TERMINATION_LOG_LINES_MAX, TERMINATION_MESSAGE_BYTES_MAX};

/// One ended instance of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Termination {
    pub attempt: u32,
    /// Empty where no instance was ever made.
    pub container_id: String,
    pub exit_code: i32,
    pub signal: Option<i32>,
    pub reason: &'static str,
    pub message: Option<String>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Timestamp,
}

pub const COMPLETED: &str = "Completed";
pub const ERROR: &str = "Error";
pub const OOM_KILLED: &str = "OOMKilled";
pub const START_ERROR: &str = "StartError";
pub const STATUS_UNKNOWN: &str = "ContainerStatusUnknown";
pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
pub const EXIT_CODE_START_ERROR: i32 = 128;
pub const EXIT_CODE_UNKNOWN: i32 = 137;

/// The reason for an exit that was seen.
pub fn reason(exit_code: i32, is_oom: bool) -> &'static str {
    match (is_oom, exit_code) {
        (true, code) if code != 0 => OOM_KILLED,
        (_, 0) => COMPLETED,
        _ => ERROR,
    }
}

/// A container that is gone without anybody having seen it end.
pub fn unknown(attempt: u32, container_id: String, started_at: Option<Timestamp>, now: Timestamp) -> Termination {
    Termination {
        attempt,
        container_id,
        exit_code: EXIT_CODE_UNKNOWN,
        signal: None,
        reason: STATUS_UNKNOWN,
        message: Some("The container could not be located when the pod was terminated".to_owned()),
        started_at,
        finished_at: now,
    }
}

/// The message a container leaves: the file at its `terminationMessagePath`, or with `FallbackToLogsOnError` the end of
/// its log where the file is empty and the container failed.
pub fn message(
    file: &[u8],
    is_fallback_policy: bool,
    exit_code: i32,
    log_tail: impl FnOnce() -> String,
) -> Option<String> {
    let own = String::from_utf8_lossy(&file[..file.len().min(TERMINATION_MESSAGE_BYTES_MAX)]).into_owned();
    let text = if own.is_empty() && is_fallback_policy && exit_code != 0 { end_of(&log_tail()) } else { own };
    (!text.is_empty()).then_some(text)
}

/// The last lines of a text, within the limits of a message made from a log.
pub fn end_of(log: &str) -> String {
    let body = log.strip_suffix('\n').unwrap_or(log);
    let lines_from = body.rmatch_indices('\n').nth(TERMINATION_LOG_LINES_MAX - 1).map_or(0, |(at, _)| at + 1);
    let mut from = lines_from.max(log.len().saturating_sub(TERMINATION_LOG_BYTES_MAX));
    while !log.is_char_boundary(from) {
        from += 1;
    }
    log[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons() {
        assert_eq!(reason(0, false), COMPLETED);
        assert_eq!(reason(0, true), COMPLETED);
        assert_eq!(reason(1, false), ERROR);
        assert_eq!(reason(137, true), OOM_KILLED);
        assert_eq!(reason(143, false), ERROR);
    }

    #[test]
    fn the_message_is_the_file_then_the_log() {
        let log = || "a\nb\n".to_owned();
        assert_eq!(message(b"said", true, 1, log).as_deref(), Some("said"));
        assert_eq!(message(b"", true, 1, log).as_deref(), Some("a\nb\n"));
        assert_eq!(message(b"", true, 0, log), None);
        assert_eq!(message(b"", false, 1, log), None);
        assert_eq!(message(&[b'x'; 5000], false, 1, log).map(|text| text.len()), Some(4096));
    }

    #[test]
    fn the_end_of_a_log_is_80_lines_or_2048_bytes() {
        let short: String = (0..100).map(|n| format!("{n}\n")).collect();
        let end = end_of(&short);
        assert_eq!((end.lines().count(), end.lines().next()), (80, Some("20")));
        assert_eq!(end_of(&"é".repeat(2000)).len(), 2048);
    }
}
