//! kubectl as a user runs it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

pub struct Kubectl {
    kubeconfig: PathBuf,
    context: Option<String>,
}

impl Kubectl {
    pub fn new(kubeconfig: &Path) -> Self {
        Self { kubeconfig: kubeconfig.to_owned(), context: None }
    }

    /// The same with another server of the kubeconfig.
    pub fn with_context(self, context: String) -> Self {
        Self { context: Some(context), ..self }
    }

    /// Runs it and shows command and output.
    pub fn show(&self, arguments: &[&str]) -> Result<()> {
        println!("$ kubectl {}", arguments.join(" "));
        print!("{}", self.output(arguments)?);
        Ok(())
    }

    /// Standard output; anything on standard error is a failure, because users would see it.
    pub fn output(&self, arguments: &[&str]) -> Result<String> {
        self.run(arguments, None)
    }

    pub fn apply(&self, manifest: &str) -> Result<()> {
        self.run(&["apply", "-f", "-"], Some(manifest)).map(|_| ())
    }

    fn run(&self, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let mut command = Command::new("kubectl");
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        if let Some(context) = &self.context {
            command.args(["--context", context]);
        }
        let mut child = command
            .args(arguments)
            .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run kubectl")?;
        if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(text.as_bytes()).context("cannot write to kubectl")?;
        }
        let output = child.wait_with_output().context("kubectl")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {}: {}\n{errors}", arguments.join(" "), output.status);
        ensure!(errors.trim().is_empty(), "kubectl {} warned:\n{errors}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
