//! One child process of `kontiki dev`: started with its own log file, told to end, and waited for.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

/// How long a child may take to end after SIGTERM before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

pub struct Child {
    name: String,
    arguments: Vec<OsString>,
    pid: u32,
    process: tokio::process::Child,
    /// How it ended.
    gone: Option<ExitStatus>,
}

impl Child {
    /// Starts this program again with `arguments`; its output goes to `<logs>/<name>.log`.
    pub fn spawn(name: &str, arguments: &[OsString], logs: &Path) -> Result<Self> {
        let path = logs.join(format!("{name}.log"));
        let log = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let errors = log.try_clone().context("cannot share the log file")?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let process = tokio::process::Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            // A Ctrl-C in the terminal goes to the whole process group; the children are stopped in order instead.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let pid = process.id().context("the child ended at once")?;
        Ok(Self { name: name.to_owned(), arguments: arguments.to_vec(), pid, process, gone: None })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn is_gone(&self) -> bool {
        self.gone.is_some()
    }

    pub fn ended_well(&self) -> bool {
        self.gone.is_some_and(|status| status.success())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.process.try_wait().ok().flatten()?;
        self.gone = Some(status);
        Some(sentence(&self.name, status))
    }

    /// Waits until it ends, and says how; never returns for one that is known to be gone.
    pub async fn wait(&mut self) -> String {
        if self.gone.is_some() {
            return std::future::pending().await;
        }
        match self.process.wait().await {
            Ok(status) => {
                self.gone = Some(status);
                sentence(&self.name, status)
            }
            // Only a process that is not our child cannot be waited for.
            Err(error) => unreachable!("{} cannot be waited for: {error}", self.name),
        }
    }

    /// SIGTERM, then SIGKILL when it takes too long.
    pub async fn stop(&mut self) {
        if self.gone.is_some() {
            return;
        }
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself just now.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(STOP_LIMIT, self.process.wait()).await.is_err() {
            eprintln!("kontiki: {} (pid {}) did not stop in time: killing it", self.name, self.pid);
            let _ = self.process.kill().await;
        }
        self.gone = self.process.wait().await.ok();
    }

    /// Starts the same program with further arguments, and waits for its end.
    pub async fn run_again(&self, further: &[&str], logs: &Path) {
        let mut arguments = self.arguments.clone();
        arguments.extend(further.iter().map(OsString::from));
        match Self::spawn(&format!("{}-cleanup", self.name), &arguments, logs) {
            Ok(mut again) => {
                let how = again.wait().await;
                if !again.ended_well() {
                    eprintln!("kontiki: {how}: what {} left may still be there", self.name);
                }
            }
            Err(error) => eprintln!("kontiki: {error:#}"),
        }
    }
}

fn sentence(name: &str, status: ExitStatus) -> String {
    match std::os::unix::process::ExitStatusExt::signal(&status) {
        Some(signal) => format!("{name} was ended by signal {signal}"),
        None => format!("{name} ended with exit code {}", status.code().unwrap_or(-1)),
    }
}
