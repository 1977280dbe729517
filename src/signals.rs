//! SIGINT and SIGTERM as a cancellation: everything that runs is told once, and drains.

use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::logging;

/// The first signal; a process has one end.
static FIRST: OnceLock<SignalKind> = OnceLock::new();

/// A token that is cancelled by the first SIGINT or SIGTERM. A second one ends the process at once.
pub fn shutdown() -> Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        for times in 1.. {
            let kind = tokio::select! {
                _ = interrupt.recv() => SignalKind::interrupt(),
                _ = terminate.recv() => SignalKind::terminate(),
            };
            if times == 1 {
                let name = if kind == SignalKind::interrupt() { "interrupt" } else { "terminated" };
                tracing::info!(signal = name, "received signal; shutting down");
                // Set once: this is the first.
                let _ = FIRST.set(kind);
                cancelled.cancel();
            } else {
                logging::flush();
                std::process::exit(130);
            }
        }
    });
    Ok(token)
}

/// Ends the process by the signal that told it to stop, so that whoever waits for it sees what etcd would show: a service
/// that was stopped, not one that gave up. Returns where there was no signal, and in process 1, which signals do not end.
pub fn end_as_told() -> ExitCode {
    logging::flush();
    if let Some(kind) = FIRST.get()
        && std::process::id() != 1
        && let Err(error) = signal_hook::low_level::emulate_default_handler(kind.as_raw_value())
    {
        tracing::warn!(%error, "the signal cannot be passed on");
    }
    ExitCode::SUCCESS
}

/// Makes the kernel send SIGTERM to this process when the one that started it ends, however it ends.
pub fn end_with_parent() -> Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))
        .context("cannot ask for the parent's death signal")?;
    if rustix::process::getppid().is_none_or(|parent| parent == rustix::process::Pid::INIT) {
        // It ended before the kernel was told.
        std::process::exit(0);
    }
    Ok(())
}
