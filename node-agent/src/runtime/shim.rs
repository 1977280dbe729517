//! The shim: one single-threaded process per pod that holds the pod's namespaces and starts, watches and reaps its
//! containers, whether or not an agent is there.
//!
//! It *is* in the pod's network, IPC and UTS namespaces, so children need no `setns`, and in a private copy of the node's
//! mount namespace, so what it mounts vanishes with it. One epoll loop: the socket the agent connects to, a pidfd per
//! container (never SIGCHLD, which can be lost), their output. The agent may come and go; exits are told until acknowledged.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, WaitId, WaitIdOptions};

use super::cgroup::{self, CgroupDriver};
use super::container::{self, now};
use super::error::{Stage, StartError};
use super::journal::{Record, Snapshot, exit_of, key_of};
use super::plan::{ContainerKey, ContainerPlan};
use super::protocol::{Answer, Call, Message, Request, VERSION};
use super::running::{Output, Running};
use super::sandbox::Sandboxed;
use super::session::Session;
use super::sys::{self, SingleThreaded};

/// Entry of the shim process: never returns. The program calls it before anything else when its first argument is `shim`.
///
/// Descriptor 0 is the listening socket that agents connect to.
pub fn shim_main() -> ! {
    let code = match Shim::new().and_then(|mut shim| shim.run()) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("shim: {error}");
            1
        }
    };
    std::process::exit(code)
}

const LISTENER: u64 = 0;
const SESSION: u64 = 1;
/// Each container has four tokens from here on: its pidfd, stdout, stderr.
const FIRST_CONTAINER: u64 = 4;

struct Shim {
    proof: SingleThreaded,
    epoll: OwnedFd,
    listener: OwnedFd,
    session: Option<Session>,
    driver: Box<dyn CgroupDriver>,
    sandbox: Option<Sandboxed>,
    snapshot: Snapshot,
    /// By first token.
    running: BTreeMap<u64, Running>,
    next_token: u64,
    /// The request to remove the sandbox, answered when nothing runs any more.
    closing: Option<u64>,
}

impl Shim {
    fn new() -> io::Result<Self> {
        let listener = sys::take_stdin()?;
        let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::io::ioctl_fionbio(&listener, true)?;
        let proof = SingleThreaded::check()?;
        // Fails only for a process group leader, which a spawned process is not.
        let _ = rustix::process::setsid();
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        // Nothing may attach to the shim through a container's namespaces (CVE-2019-5736).
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        rustix::process::umask(Mode::from_raw_mode(0o077));
        let _ = rustix::thread::set_name(c"kontiki-shim");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Self {
            proof,
            epoll,
            listener,
            session: None,
            driver: cgroup::detect()?,
            sandbox: None,
            snapshot: Snapshot::default(),
            running: BTreeMap::new(),
            next_token: FIRST_CONTAINER,
            closing: None,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(16);
        loop {
            self.kill_overdue();
            let timeout = self.next_deadline().map(|delay| rustix::time::Timespec {
                tv_sec: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(delay.subsec_nanos()),
            });
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                self.handle(event.data.u64(), event.flags)?;
            }
            self.reap_orphans();
            if self.close_when_empty() {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, token: u64, flags: EventFlags) -> io::Result<()> {
        match token {
            LISTENER => self.accept(),
            SESSION => {
                self.serve(flags);
                Ok(())
            }
            token => self.handle_container(token),
        }
    }

    /// A new agent replaces the old one: there is one agent for a node.
    fn accept(&mut self) -> io::Result<()> {
        let socket = match rustix::net::accept_with(&self.listener, rustix::net::SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        rustix::io::ioctl_fionbio(&socket, true)?;
        // Closing the old socket takes it out of the epoll set.
        self.session = None;
        epoll::add(&self.epoll, &socket, EventData::new_u64(SESSION), EventFlags::IN)?;
        self.session = Some(Session::new(socket));
        Ok(())
    }

    fn serve(&mut self, flags: EventFlags) {
        let Some(session) = &mut self.session else { return };
        let mut requests = Vec::new();
        let mut alive = true;
        if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            alive = session.read(&mut requests);
        }
        for request in requests {
            self.answer(request);
        }
        if let Some(session) = &mut self.session {
            alive &= session.flush(&self.epoll, SESSION);
        }
        if !alive {
            self.session = None;
        }
    }

    fn answer(&mut self, Request { number, call }: Request) {
        let answer = match call {
            Call::Hello { .. } => {
                let pid = rustix::process::getpid().as_raw_nonzero().get().cast_unsigned();
                let snapshot = Box::new(self.snapshot.clone());
                self.send(&Message::Reply { number, answer: Answer::Hello { version: VERSION, pid, snapshot } });
                return self.repeat_exits();
            }
            Call::RemoveSandbox => {
                self.closing = Some(number);
                self.kill_all();
                return;
            }
            Call::CreateSandbox(request) => self.create_sandbox(*request),
            Call::ConfigureNetwork(address) => done(super::sandbox::configure_network(address)),
            Call::StartContainer(plan) => match self.start(*plan) {
                Ok(started) => Answer::Started(started),
                Err(error) => Answer::NotStarted(error),
            },
            Call::Signal { container, signal } => self.on_running(&container, |running, _| running.signal(signal)),
            Call::Stop { container, grace_ms } => {
                self.on_running(&container, |running, driver| running.stop(Duration::from_millis(grace_ms), driver))
            }
            Call::Kill { container } => self.on_running(&container, |running, driver| driver.kill(&running.cgroup)),
            Call::RemoveContainer { container } => done(self.remove(&container)),
            Call::Acknowledge { container } => done(self.record(Record::Acknowledged { key: container })),
        };
        self.send(&Message::Reply { number, answer });
    }

    fn send(&mut self, message: &Message) {
        if let Some(session) = &mut self.session {
            session.queue(message);
            if !session.flush(&self.epoll, SESSION) {
                self.session = None;
            }
        }
    }

    fn repeat_exits(&mut self) {
        let again: Vec<Message> = self
            .snapshot
            .unacknowledged()
            .map(|(key, exit)| Message::Exited { container: key.clone(), exit: exit.clone() })
            .collect();
        again.iter().for_each(|message| self.send(message));
    }

    /// Journal first, then memory.
    fn record(&mut self, record: Record) -> io::Result<()> {
        if let Some(sandbox) = &mut self.sandbox {
            sandbox.journal.append(&record)?;
        }
        self.snapshot.apply(record);
        Ok(())
    }

    fn create_sandbox(&mut self, request: super::protocol::CreateSandbox) -> Answer {
        if self.sandbox.is_some() {
            return Answer::Failed("this shim has a sandbox already".to_owned());
        }
        match Sandboxed::create(&self.proof, self.driver.as_ref(), &request) {
            Ok((sandbox, record, warnings)) => {
                self.sandbox = Some(sandbox);
                match self.record(record) {
                    Ok(()) => Answer::SandboxCreated { warnings },
                    Err(error) => Answer::Failed(error.to_string()),
                }
            }
            Err(error) => Answer::Failed(error),
        }
    }

    fn start(&mut self, plan: ContainerPlan) -> Result<super::plan::Started, StartError> {
        let no_sandbox = || StartError::new(Stage::Sandbox, "the pod has no sandbox");
        let sandbox = self.sandbox.as_ref().filter(|_| self.closing.is_none()).ok_or_else(no_sandbox)?;
        if self.running.values().any(|running| running.key.name == plan.name) {
            return Err(StartError::new(Stage::Plan, format!("container {:?} is running already", plan.name)));
        }
        let key = key_of(&sandbox.pod_uid, &plan);
        let cgroup = sandbox.cgroup.join(&plan.id);
        let log = super::log::LogFile::open(&plan.log_path, plan.log_limits)
            .map_err(|error| StartError::io(Stage::Stdio, plan.log_path.display(), &error))?;
        let launched = container::launch(&self.proof, &plan, &sandbox.mounts, self.driver.as_ref(), &cgroup)?;
        launched.warnings.iter().for_each(|warning| eprintln!("shim: {}: {warning}", plan.name));
        let started = launched.started;
        let stop_signal = super::running::parse_signal(&plan.stop_signal);
        let token = self.next_token;
        self.next_token += 4;
        let running = Running::new(key.clone(), launched, log, cgroup, stop_signal);
        running
            .register(&self.epoll, token)
            .and_then(|()| self.record(Record::Started { key, plan: Box::new(plan), started }))
            .map_err(|error| StartError::io(Stage::Stdio, "cannot watch the container", &error))?;
        self.running.insert(token, running);
        Ok(started)
    }

    fn on_running(
        &mut self,
        name: &str,
        act: impl FnOnce(&mut Running, &dyn CgroupDriver) -> io::Result<()>,
    ) -> Answer {
        if let Some(running) = self.running.values_mut().find(|running| running.key.name == name) {
            return done(act(running, self.driver.as_ref()));
        }
        // It has ended already: what was asked for is so.
        match self.snapshot.containers.iter().any(|container| container.key.name == name) {
            true => Answer::Done,
            false => Answer::NoContainer,
        }
    }

    fn handle_container(&mut self, token: u64) -> io::Result<()> {
        let first = token & !3;
        let Some(running) = self.running.get_mut(&first) else { return Ok(()) };
        match token & 3 {
            0 => self.finish(first),
            1 => {
                running.pump(Output::Stdout, now());
                Ok(())
            }
            _ => {
                running.pump(Output::Stderr, now());
                Ok(())
            }
        }
    }

    /// The container's first process has ended, and in its own pid namespace everything else with it.
    fn finish(&mut self, token: u64) -> io::Result<()> {
        let Some(mut running) = self.running.remove(&token) else { return Ok(()) };
        let status = rustix::process::waitid(WaitId::PidFd(running.pidfd.as_fd()), WaitIdOptions::EXITED)?;
        let status = status.expect("invariant: the pidfd said that the process has ended");
        let finished_at = now();
        let oom = self.driver.oom_kills(&running.cgroup) > 0;
        // With the node's pid namespace others may be left.
        let _ = self.driver.kill(&running.cgroup);
        running.drain(finished_at);
        let _ = self.driver.remove_once(&running.cgroup);
        let exit =
            exit_of(status.exit_status(), status.terminating_signal(), oom, running.started.started_at, finished_at);
        let key = running.key.clone();
        self.record(Record::Exited { key: key.clone(), exit: exit.clone() })?;
        self.send(&Message::Exited { container: key, exit });
        Ok(())
    }

    fn remove(&mut self, container: &ContainerKey) -> io::Result<()> {
        if self.running.values().any(|running| running.key == *container) {
            return Err(io::Error::other("the container is still running"));
        }
        if let Some(sandbox) = &self.sandbox {
            let cgroup = sandbox.cgroup.join(&container.id);
            cgroup::kill_and_remove(self.driver.as_ref(), &cgroup, Duration::from_secs(1))?;
        }
        self.record(Record::Removed { key: container.clone() })
    }

    fn kill_all(&mut self) {
        for running in self.running.values() {
            if let Err(error) = self.driver.kill(&running.cgroup) {
                eprintln!("shim: cannot kill {}: {error}", running.key.name);
                let _ = running.signal(libc::SIGKILL);
            }
        }
    }

    fn kill_overdue(&mut self) {
        #[allow(clippy::disallowed_methods)]
        let now = Instant::now();
        for running in self.running.values_mut().filter(|running| running.kill_at.is_some_and(|at| at <= now)) {
            running.kill_at = None;
            let _ = self.driver.kill(&running.cgroup);
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let next = self.running.values().filter_map(|running| running.kill_at).min()?;
        #[allow(clippy::disallowed_methods)]
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// As subreaper the shim inherits what containers in the node's pid namespace leave behind. Those it started itself are
    /// left for their pidfds.
    fn reap_orphans(&self) {
        while let Some(pid) = sys::peek_ended_child() {
            let ours = self.running.values().any(|running| running.started.pid == pid);
            let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).filter(|_| !ours) else {
                return;
            };
            let _ = rustix::process::waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }

    fn close_when_empty(&mut self) -> bool {
        let Some(number) = self.closing.filter(|_| self.running.is_empty()) else { return false };
        self.send(&Message::Reply { number, answer: Answer::Done });
        true
    }
}

fn done(result: io::Result<()>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Failed(error.to_string()),
    }
}

/// Directory of a pod's shim.
pub(super) fn state_dir(run_dir: &Path, pod_uid: &str) -> PathBuf {
    run_dir.join("pods").join(pod_uid)
}
