//! One running container as its shim sees it: the pidfd, the output on its way to the log, the deadline of a stop.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use super::cgroup::CgroupDriver;
use super::container::Launched;
use super::limits::PIPE_READ_SIZE;
use super::log::{LineCutter, LogFile, Stream};
use super::plan::{ContainerKey, Started};
use super::sys;

/// Which pipe; the number is its epoll token's offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Stdout = 1,
    Stderr = 2,
}

#[derive(Debug)]
struct Pipe {
    /// `None` after its end.
    fd: Option<OwnedFd>,
    cutter: LineCutter,
}

#[derive(Debug)]
pub(super) struct Running {
    pub(super) key: ContainerKey,
    pub(super) started: Started,
    pub(super) pidfd: OwnedFd,
    pub(super) cgroup: PathBuf,
    /// When everything in the container is killed.
    pub(super) kill_at: Option<Instant>,
    stop_signal: i32,
    stdout: Pipe,
    stderr: Pipe,
    log: LogFile,
}

impl Running {
    pub(super) fn new(key: ContainerKey, launched: Launched, log: LogFile, cgroup: PathBuf, stop_signal: i32) -> Self {
        let Launched { started, pidfd, stdout, stderr, warnings: _ } = launched;
        Self {
            key,
            started,
            pidfd,
            cgroup,
            kill_at: None,
            stop_signal,
            stdout: Pipe { fd: Some(stdout), cutter: LineCutter::new(Stream::Stdout) },
            stderr: Pipe { fd: stderr, cutter: LineCutter::new(Stream::Stderr) },
            log,
        }
    }

    pub(super) fn register(&self, epoll: &OwnedFd, token: u64) -> io::Result<()> {
        epoll::add(epoll, &self.pidfd, EventData::new_u64(token), EventFlags::IN)?;
        for (output, pipe) in [(Output::Stdout, &self.stdout), (Output::Stderr, &self.stderr)] {
            if let Some(fd) = &pipe.fd {
                epoll::add(epoll, fd, EventData::new_u64(token + output as u64), EventFlags::IN)?;
            }
        }
        Ok(())
    }

    pub(super) fn signal(&self, signal: i32) -> io::Result<()> {
        match sys::signal_pidfd(self.pidfd.as_fd(), signal) {
            // Ended, and not reaped yet.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            result => result,
        }
    }

    /// The stop signal now and SIGKILL after `grace`; a second call can only bring the end nearer.
    pub(super) fn stop(&mut self, grace: Duration, driver: &dyn CgroupDriver) -> io::Result<()> {
        if grace.is_zero() {
            return driver.kill(&self.cgroup);
        }
        #[allow(clippy::disallowed_methods)]
        let deadline = Instant::now() + grace;
        if self.kill_at.is_none() {
            self.signal(self.stop_signal)?;
        }
        self.kill_at = Some(self.kill_at.map_or(deadline, |earlier| earlier.min(deadline)));
        Ok(())
    }

    /// One read of one pipe, so that a chatty container cannot starve the others.
    pub(super) fn pump(&mut self, output: Output, time: SystemTime) -> bool {
        let Self { stdout, stderr, log, key, .. } = self;
        let pipe = match output {
            Output::Stdout => stdout,
            Output::Stderr => stderr,
        };
        let Some(fd) = &pipe.fd else { return false };
        let mut buffer = [0u8; PIPE_READ_SIZE];
        let mut lines = Vec::new();
        let more = match rustix::io::read(fd, &mut buffer) {
            Ok(0) => {
                pipe.fd = None;
                false
            }
            Ok(length) => {
                pipe.cutter.push(&buffer[..length], time, &mut lines);
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            // A terminal whose other end is closed says EIO.
            Err(_) => {
                pipe.fd = None;
                false
            }
        };
        if pipe.fd.is_none() {
            pipe.cutter.finish(time, &mut lines);
        }
        if let Err(error) = log.write(&lines, time) {
            eprintln!("shim: the log of {} lost {} bytes: {error}", key.name, lines.len());
        }
        more
    }

    /// What is left in the pipes when the container has ended.
    pub(super) fn drain(&mut self, time: SystemTime) {
        while self.pump(Output::Stdout, time) {}
        while self.pump(Output::Stderr, time) {}
        let mut lines = Vec::new();
        self.stdout.cutter.finish(time, &mut lines);
        self.stderr.cutter.finish(time, &mut lines);
        if let Err(error) = self.log.write(&lines, time) {
            eprintln!("shim: the log of {} lost {} bytes: {error}", self.key.name, lines.len());
        }
    }
}

/// A number, or a name with or without `SIG`; SIGTERM when it is neither.
pub(super) fn parse_signal(text: &str) -> i32 {
    if let Ok(number) = text.parse() {
        return number;
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        return libc::SIGRTMIN() + offset.strip_prefix('+').and_then(|offset| offset.parse::<i32>().ok()).unwrap_or(0);
    }
    match name {
        "HUP" => libc::SIGHUP,
        "INT" => libc::SIGINT,
        "QUIT" => libc::SIGQUIT,
        "ABRT" => libc::SIGABRT,
        "KILL" => libc::SIGKILL,
        "USR1" => libc::SIGUSR1,
        "USR2" => libc::SIGUSR2,
        "PIPE" => libc::SIGPIPE,
        "ALRM" => libc::SIGALRM,
        "CONT" => libc::SIGCONT,
        "STOP" => libc::SIGSTOP,
        "WINCH" => libc::SIGWINCH,
        "PWR" => libc::SIGPWR,
        _ => libc::SIGTERM,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_named_in_several_ways() {
        assert_eq!(parse_signal("SIGQUIT"), libc::SIGQUIT);
        assert_eq!(parse_signal("int"), libc::SIGINT);
        assert_eq!(parse_signal("9"), 9);
        assert_eq!(parse_signal("SIGRTMIN+3"), libc::SIGRTMIN() + 3);
    }
}
