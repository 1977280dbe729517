//! A container's log in CRI format: `<time> stdout F text`, written by the shim.
//!
//! The formatting is pure: bytes and a time in, lines out. A line longer than 16 KiB, or one that the program has not ended
//! when its pipe closes, is written in parts marked `P`. Files are rotated by size; the shim writes synchronously, so a slow
//! disk slows the program and loses nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::limits::LOG_LINE_SIZE_MAX;
use super::plan::LogLimits;

/// Which pipe a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Cuts one stream into lines.
#[derive(Debug)]
pub(super) struct LineCutter {
    stream: Stream,
    /// A line whose end has not come yet; shorter than [`LOG_LINE_SIZE_MAX`].
    pending: Vec<u8>,
}

impl LineCutter {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Appends to `out` what is complete after `bytes` arrived at `time`.
    pub(super) fn push(&mut self, mut bytes: &[u8], time: SystemTime, out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            let room = LOG_LINE_SIZE_MAX - self.pending.len();
            let window = &bytes[..bytes.len().min(room)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    self.pending.extend_from_slice(&window[..end]);
                    self.flush(time, b'F', out);
                    bytes = &bytes[end + 1..];
                }
                None => {
                    self.pending.extend_from_slice(window);
                    bytes = &bytes[window.len()..];
                    if self.pending.len() == LOG_LINE_SIZE_MAX {
                        self.flush(time, b'P', out);
                    }
                }
            }
        }
    }

    /// The stream has ended: what is left is a line without an end.
    pub(super) fn finish(&mut self, time: SystemTime, out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            self.flush(time, b'P', out);
        }
    }

    fn flush(&mut self, time: SystemTime, tag: u8, out: &mut Vec<u8>) {
        out.extend_from_slice(rfc3339_nano(time).as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.stream.name().as_bytes());
        out.extend_from_slice(&[b' ', tag, b' ']);
        out.append(&mut self.pending);
        out.push(b'\n');
    }
}

/// The log file of one container instance, with its rotated predecessors.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    limits: LogLimits,
    file: File,
    size: u64,
}

impl LogFile {
    pub(super) fn open(path: &Path, limits: LogLimits) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).create(directory)?;
        }
        let file = open_append(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), limits, file, size })
    }

    /// Writes whole lines, after rotating when the file has reached its size.
    pub(super) fn write(&mut self, lines: &[u8], time: SystemTime) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        if self.size >= self.limits.file_size_max {
            self.rotate(time)?;
        }
        self.file.write_all(lines)?;
        self.size += lines.len() as u64;
        Ok(())
    }

    /// `0.log` becomes `0.log.<time>`; of those the oldest are deleted.
    fn rotate(&mut self, time: SystemTime) -> io::Result<()> {
        let mut rotated = self.path.clone().into_os_string();
        rotated.push(format!(".{}", rotation_stamp(time)));
        std::fs::rename(&self.path, rotated)?;
        self.file = open_append(&self.path)?;
        self.size = 0;
        let mut old = self.rotated()?;
        old.sort();
        let keep = usize::try_from(self.limits.files_max.saturating_sub(1)).unwrap_or(usize::MAX);
        for path in &old[..old.len().saturating_sub(keep)] {
            std::fs::remove_file(path)?;
        }
        Ok(())
    }

    fn rotated(&self) -> io::Result<Vec<PathBuf>> {
        let (Some(directory), Some(name)) = (self.path.parent(), self.path.file_name()) else { return Ok(Vec::new()) };
        let prefix = format!("{}.", name.to_string_lossy());
        let entries = std::fs::read_dir(directory)?.flatten();
        let rotated = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
        Ok(rotated.map(|entry| entry.path()).collect())
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

/// `2026-11-23T21:04:05.000000006Z`.
pub(super) fn rfc3339_nano(time: SystemTime) -> String {
    let Civil { year, month, day, hour, minute, second, nanosecond } = Civil::from(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanosecond:09}Z")
}

/// Sorts by time; with nanoseconds, since a fast writer may rotate several times a second.
fn rotation_stamp(time: SystemTime) -> String {
    let Civil { year, month, day, hour, minute, second, nanosecond } = Civil::from(time);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}.{nanosecond:09}")
}

struct Civil {
    year: i64,
    month: i64,
    day: i64,
    hour: u64,
    minute: u64,
    second: u64,
    nanosecond: u32,
}

impl From<SystemTime> for Civil {
    /// Days to a date by counting in 400-year eras that start on 1 March, so that leap days come last.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let seconds = since.as_secs();
        let days = i64::try_from(seconds / 86_400).expect("invariant: days since 1970 fit") + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
            hour: seconds / 3600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            nanosecond: since.subsec_nanos(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, nanos: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, nanos)
    }

    #[test]
    fn times_are_rfc3339_with_nanoseconds() {
        assert_eq!(rfc3339_nano(at(0, 5)), "1970-01-01T00:00:00.000000005Z");
        assert_eq!(rfc3339_nano(at(951_782_399, 0)), "2000-02-28T23:59:59.000000000Z");
        assert_eq!(rfc3339_nano(at(951_782_400, 0)), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(rfc3339_nano(at(1_795_468_245, 0)), "2026-11-23T21:10:45.000000000Z");
    }

    #[test]
    fn lines_are_cut_wherever_the_reads_fall() {
        let mut cutter = LineCutter::new(Stream::Stdout);
        let mut out = Vec::new();
        cutter.push(b"hel", at(0, 0), &mut out);
        cutter.push(b"lo\n\nend", at(1, 0), &mut out);
        cutter.finish(at(2, 0), &mut out);
        let expected = "1970-01-01T00:00:01.000000000Z stdout F hello\n\
                        1970-01-01T00:00:01.000000000Z stdout F \n\
                        1970-01-01T00:00:02.000000000Z stdout P end\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_long_line_comes_in_parts() {
        let mut cutter = LineCutter::new(Stream::Stderr);
        let mut out = Vec::new();
        let mut line = vec![b'x'; LOG_LINE_SIZE_MAX + 1];
        line.push(b'\n');
        cutter.push(&line, at(0, 0), &mut out);
        let text = String::from_utf8(out).unwrap();
        let tags: Vec<&str> = text.lines().map(|line| line.split(' ').nth(2).unwrap()).collect();
        assert_eq!(tags, ["P", "F"]);
        assert_eq!(text.lines().nth(1).unwrap().split(' ').nth(3), Some("x"));
    }

    #[test]
    fn files_rotate_and_the_oldest_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c/0.log");
        let mut log = LogFile::open(&path, LogLimits { file_size_max: 4, files_max: 3 }).unwrap();
        for number in 0..6u64 {
            log.write(format!("line{number}\n").as_bytes(), at(number, 0)).unwrap();
        }
        let mut names: Vec<String> = std::fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.19700101-000004.000000000", "0.log.19700101-000005.000000000"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line5\n");
    }
}
