//! Running the virtual machine: its console goes to the terminal, its last word decides, and it never outlives its time.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::guest::Guest;
use super::kernel::Kernel;
use crate::process::{Failure, step};

/// A guest that has not said its last word by then is stopped.
const DEADLINE: Duration = Duration::from_secs(15 * 60);
/// Some virtual machines offer `/dev/kvm` and hang when it is used: one that works boots in two seconds.
const KVM_PATIENCE: Duration = Duration::from_secs(8);

const PASSED: &str = "vm: passed";

/// Hardware virtualisation where it works, emulation elsewhere.
pub fn run(kernel: &Kernel, guest: &Guest) -> Result<(), Failure> {
    let has_kvm = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if has_kvm {
        if let Some(outcome) = boot(kernel, guest, &["-accel", "kvm", "-cpu", "host"], Some(KVM_PATIENCE)) {
            return outcome;
        }
        step("KVM does not work here: emulating");
    }
    let emulated = ["-accel", "tcg,thread=multi", "-cpu", "max"];
    boot(kernel, guest, &emulated, None).unwrap_or_else(|| Err(Failure::new("the virtual machine said nothing")))
}

/// `None` when it ended, or was ended after `patience`, without a word.
fn boot(
    kernel: &Kernel,
    guest: &Guest,
    accelerator: &[&str],
    patience: Option<Duration>,
) -> Option<Result<(), Failure>> {
    // Should this process be killed, the machine goes with it.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args(accelerator)
        .args(["-smp", "2", "-m", "2048", "-nic", "none", "-display", "none", "-monitor", "none", "-no-reboot"])
        .args(["-serial", "stdio", "-append", "console=ttyS0 quiet panic=-1", "-kernel"])
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&guest.initramfs)
        .args(["-drive", &format!("file={},format=raw,if=virtio,cache=unsafe", guest.disk.display())])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    if patience.is_some() {
        // An attempt's complaints help nobody.
        command.stderr(Stdio::null());
    }
    match command.spawn() {
        Ok(child) => Running(child).watch(patience),
        Err(error) => Some(Err(Failure::new(format!("cannot run qemu: {error}")))),
    }
}

/// Killed and reaped when it goes.
struct Running(Child);

impl Running {
    fn watch(mut self, patience: Option<Duration>) -> Option<Result<(), Failure>> {
        let deadline = Instant::now() + DEADLINE;
        let lines = self.lines();
        let first = lines.recv_timeout(patience.unwrap_or(DEADLINE)).ok()?;
        println!("    {first}");
        let mut has_passed = false;
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    println!("    {line}");
                    has_passed |= line == PASSED;
                }
                Err(RecvTimeoutError::Disconnected) if has_passed => return Some(Ok(())),
                Err(RecvTimeoutError::Disconnected) => {
                    return Some(Err(Failure::new("the suites failed on Debian 12's kernel")));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let minutes = DEADLINE.as_secs() / 60;
                    return Some(Err(Failure::new(format!("the virtual machine did not end in {minutes} minutes"))));
                }
            }
        }
    }

    /// The console, line by line, until the machine is switched off.
    fn lines(&mut self) -> Receiver<String> {
        let (sender, lines) = channel();
        let console = self.0.stdout.take().expect("invariant: the output is a pipe");
        thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line);
                if sender.send(line.trim_end_matches('\r').to_owned()).is_err() {
                    return;
                }
            }
        });
        lines
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
