//! A log file that makes room for itself: when it has grown large it is renamed with the time, and old ones are removed.
//!
//! Names and rules are those of the library that etcd uses, so that whatever looks after etcd's old logs finds these:
//! `etcd.log` becomes `etcd-2026-08-20T15-13-15.123.log`, with `.gz` behind it when compressed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::jiff::civil::DateTime;
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{ToSpan, Zoned};
use kontiki_store::config::logs::LogRotation;

const TIME_FORMAT: &str = "%Y-%m-%dT%H-%M-%S.%3f";
const MEGABYTE: u64 = 1 << 20;

pub struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    rotation: Option<LogRotation>,
}

impl LogFile {
    /// Goes on with a file that is there.
    pub fn open(path: &Path, rotation: Option<LogRotation>) -> io::Result<Self> {
        let file = append(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, rotation })
    }

    pub fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if let Some(rotation) = self.rotation.clone()
            && self.bytes > 0
            && self.bytes + length > rotation.size_max_mb * MEGABYTE
        {
            self.rotate(&rotation)?;
        }
        self.file.write_all(line)?;
        self.bytes += length;
        Ok(())
    }

    fn rotate(&mut self, rotation: &LogRotation) -> io::Result<()> {
        let zone = if rotation.local_time { TimeZone::system() } else { TimeZone::UTC };
        let now = Zoned::now().with_time_zone(zone);
        let old = self.path.with_file_name(Name::of(&self.path).old(&now.strftime(TIME_FORMAT).to_string()));
        fs::rename(&self.path, old)?;
        self.file = append(&self.path)?;
        self.bytes = 0;
        let (path, rotation) = (self.path.clone(), rotation.clone());
        // Compressing takes its time, and nobody waits for it. Without a thread, the next rotation tidies up.
        let tidy = move || {
            let _ = tidy(&path, &rotation, now.datetime());
        };
        let _ = std::thread::Builder::new().name("log-rotation".into()).spawn(tidy);
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Removes the old files that are too many or too old, and compresses the others if they are to be.
fn tidy(path: &Path, rotation: &LogRotation, now: DateTime) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let names: Vec<String> =
        fs::read_dir(dir)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    let sorted = Name::of(path).sort(&names, rotation, now);
    for name in sorted.remove {
        fs::remove_file(dir.join(name))?;
    }
    for name in sorted.compress {
        compress(&dir.join(name))?;
    }
    Ok(())
}

fn compress(path: &Path) -> io::Result<()> {
    let mut target = path.as_os_str().to_owned();
    target.push(".gz");
    let mut encoder = GzEncoder::new(File::create(target)?, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?;
    fs::remove_file(path)
}

/// A log file's name in two parts, between which the time goes.
struct Name {
    stem: String,
    extension: String,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Sorted {
    remove: Vec<String>,
    compress: Vec<String>,
}

impl Name {
    fn of(path: &Path) -> Self {
        let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let extension = text(path.extension());
        let extension = if extension.is_empty() { extension } else { format!(".{extension}") };
        Self { stem: text(path.file_stem()), extension }
    }

    fn old(&self, time: &str) -> String {
        format!("{}-{time}{}", self.stem, self.extension)
    }

    /// The time in the name of an old file.
    fn time(&self, name: &str) -> Option<DateTime> {
        let name = name.strip_suffix(".gz").unwrap_or(name);
        let time = name.strip_prefix(&self.stem)?.strip_prefix('-')?.strip_suffix(&self.extension)?;
        DateTime::strptime("%Y-%m-%dT%H-%M-%S%.f", time).ok()
    }

    fn sort(&self, names: &[String], rotation: &LogRotation, now: DateTime) -> Sorted {
        let mut old: Vec<(DateTime, &String)> =
            names.iter().filter_map(|name| Some((self.time(name)?, name))).collect();
        old.sort();
        old.reverse();
        let days = i32::try_from(rotation.age_max_days).unwrap_or(i32::MAX);
        let oldest = now.checked_sub(days.days()).ok().filter(|_| days > 0);
        let mut sorted = Sorted::default();
        for (kept, (time, name)) in old.into_iter().enumerate() {
            let too_many = rotation.backups_max > 0 && kept >= rotation.backups_max;
            if too_many || oldest.is_some_and(|oldest| time < oldest) {
                sorted.remove.push(name.clone());
            } else if rotation.compress && !name.ends_with(".gz") {
                sorted.compress.push(name.clone());
            }
        }
        sorted
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn sorted(rotation: LogRotation) -> Sorted {
        let names = [
            "etcd.log",
            "etcd-2026-08-20T15-13-15.123.log",
            "etcd-2026-08-19T00-00-00.000.log.gz",
            "etcd-2026-08-01T00-00-00.000.log",
            "etcd-mine.log",
            "other-2026-08-01T00-00-00.000.log",
        ];
        let now = DateTime::strptime(TIME_FORMAT, "2026-08-21T00-00-00.000").unwrap();
        Name::of(Path::new("/var/log/etcd.log")).sort(&names.map(str::to_owned), &rotation, now)
    }

    #[test]
    fn old_files_go_by_number_and_by_age_and_only_they() {
        assert_eq!(sorted(LogRotation::default()), Sorted::default());
        let few = sorted(LogRotation { backups_max: 1, ..Default::default() });
        assert_eq!(few.remove, ["etcd-2026-08-19T00-00-00.000.log.gz", "etcd-2026-08-01T00-00-00.000.log"]);
        let young = sorted(LogRotation { age_max_days: 7, compress: true, ..Default::default() });
        assert_eq!(young.remove, ["etcd-2026-08-01T00-00-00.000.log"]);
        assert_eq!(young.compress, ["etcd-2026-08-20T15-13-15.123.log"]);
    }

    #[test]
    fn a_file_that_is_full_is_followed_by_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etcd.log");
        fs::write(&path, "before\n").unwrap();
        let rotation = LogRotation { size_max_mb: 1, compress: true, ..Default::default() };
        let mut log = LogFile::open(&path, Some(rotation)).unwrap();
        let line = vec![b'x'; 600 << 10];
        log.write_line(&line).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        log.write_line(&line).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), line.len() as u64);
        let deadline = Instant::now() + Duration::from_secs(10);
        let names = || -> Vec<String> {
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        // The thread that compresses is done when only the compressed file is left.
        while !(names().len() == 2 && names().iter().any(|name| name.ends_with(".log.gz"))) {
            assert!(Instant::now() < deadline, "{:?}", names());
            std::thread::yield_now();
        }
    }
}
