//! Where log lines go: the standard streams and files, several at once.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use kontiki_store::config::logs::{LogOutput, LogSettings};

use super::rotation::LogFile;

/// Every line goes to each of them.
pub struct Outputs(Vec<Output>);

enum Output {
    Stdout,
    Stderr,
    File(LogFile),
}

impl Outputs {
    pub fn open(settings: &LogSettings) -> Result<Self> {
        let open = |output: &LogOutput| {
            Ok(match output {
                LogOutput::Stdout => Output::Stdout,
                LogOutput::Stderr | LogOutput::Journal => Output::Stderr,
                LogOutput::File(path) => Output::File(open(path, settings)?),
            })
        };
        let outputs: Result<Vec<Output>> = settings.outputs.iter().map(open).collect();
        Ok(Self(outputs?))
    }
}

fn open(path: &Path, settings: &LogSettings) -> Result<LogFile> {
    LogFile::open(path, settings.rotation.clone())
        .with_context(|| format!("--log-outputs: cannot write to {}", path.display()))
}

impl Write for Outputs {
    /// A log that cannot be written to stops nothing: the other outputs still get the line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        for output in &mut self.0 {
            let _ = match output {
                Output::Stdout => io::stdout().write_all(line),
                Output::Stderr => io::stderr().write_all(line),
                Output::File(file) => file.write_line(line),
            };
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
