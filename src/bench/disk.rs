//! A disk that can stall: a filesystem in a file, which the kernel freezes.
//!
//! A frozen filesystem makes whoever writes to it wait where no signal reaches, so [`Stalled`] thaws it however it is
//! dropped. The mounts are in a mount namespace of the benchmark and its members: nobody else sees them, and what is left
//! of them ends with the last of those processes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kontiki_node_agent::runtime::{freeze_filesystem, thaw_filesystem, unshare_mounts_of_thread};
use rustix::mount::{UnmountFlags, unmount};

/// More than a member writes during all trials; the file has holes.
const DISK_BYTES: u64 = 4 << 30;
const MAKE: &str = "mkfs.ext4";

/// That what makes such disks is there.
pub fn ensure_possible() -> Result<()> {
    run(Command::new(MAKE).arg("-V"))
}

/// From now on what is mounted is seen by this thread and what it starts only.
pub fn keep_mounts_apart() -> Result<()> {
    unshare_mounts_of_thread().context("cannot make a mount namespace")
}

/// One disk, mounted.
pub struct Disk {
    mounted_on: PathBuf,
}

impl Disk {
    pub fn mount(image: &Path, mounted_on: &Path) -> Result<Self> {
        let made = File::create_new(image).and_then(|file| file.set_len(DISK_BYTES));
        made.with_context(|| format!("cannot make {}", image.display()))?;
        run(Command::new(MAKE).arg("-q").arg(image))?;
        std::fs::create_dir(mounted_on).with_context(|| format!("cannot make {}", mounted_on.display()))?;
        // The loop device is let go of with the mount.
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(image).arg(mounted_on))?;
        Ok(Self { mounted_on: mounted_on.to_owned() })
    }

    /// Nothing is written for so long. To be polled at once: the answer is when it is over.
    pub fn stall(&self, length: Duration) -> impl Future<Output = Result<()>> + use<> {
        let mounted_on = self.mounted_on.clone();
        async move {
            // Freezing writes out first, which takes its time; and dropped here meanwhile, the disk is thawed there.
            let frozen = tokio::task::spawn_blocking(move || Stalled::freeze(&mounted_on));
            let stalled = frozen.await.expect("freezing does not panic").context("cannot freeze a disk")?;
            tokio::time::sleep(length).await;
            drop(stalled);
            Ok(())
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // At once for everybody but a member that has not ended yet, with which the rest goes.
        if let Err(error) = unmount(&self.mounted_on, UnmountFlags::DETACH) {
            eprintln!("kontiki: cannot unmount {}: {error}", self.mounted_on.display());
        }
    }
}

/// Thaws the disk when it is dropped.
struct Stalled {
    disk: File,
    watchdog: Child,
}

/// Thaws when its input ends, which it does even where nothing is dropped: when this process is killed. Nobody could end a
/// member then that waits for its disk.
const WATCHDOG: &str = "read -r _ || exec fsfreeze --unfreeze \"$0\"";

impl Stalled {
    fn freeze(mounted_on: &Path) -> io::Result<Self> {
        let disk = File::open(mounted_on)?;
        let mut watchdog = Command::new("sh");
        watchdog.args(["-c", WATCHDOG]).arg(mounted_on).stdin(Stdio::piped()).stderr(Stdio::null()).process_group(0);
        let watchdog = watchdog.spawn()?;
        let stalled = Self { disk, watchdog };
        freeze_filesystem(stalled.disk.as_fd())?;
        Ok(stalled)
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        // Invalid is what it answers about a disk that could not be frozen, which was told.
        if let Err(error) = thaw_filesystem(self.disk.as_fd())
            && error.kind() != io::ErrorKind::InvalidInput
        {
            eprintln!("kontiki: cannot thaw a disk: {error}");
        }
        // One that has ended by itself needs no end.
        let _ = self.watchdog.kill().and_then(|()| self.watchdog.wait());
    }
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
