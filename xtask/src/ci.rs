//! What CI runs. The order is cheapest first, so that a slip is told within seconds.

use std::process::Command;

use crate::process::{Failure, cargo, on_path, path_with_tools, run, step, timed};
use crate::{setup, suites, vm};

/// The version of cargo-deny that is known to read deny.toml.
const CARGO_DENY_VERSION: &str = "^0.20";

pub fn run_all() -> Result<(), Failure> {
    setup::ensure(setup::ALL)?;
    setup::ensure(setup::VM)?;
    timed("format", cargo("fmt").args(["--all", "--check"]))?;
    timed("lints", cargo("clippy").args(["--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    timed(
        "documentation",
        cargo("doc")
            .args(["--workspace", "--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )?;
    deny()?;
    tests(&[])?;
    vm::test_where_possible()
}

/// Everything but the program, whose suites are run by themselves.
pub const LIBRARIES: &[&str] = &["--workspace", "--exclude", "kontiki"];

/// Every test. The suites that start clusters run one at a time: they measure time, and two cores are few.
pub fn tests(rest: &[String]) -> Result<(), Failure> {
    let clients = suites::prepare()?;
    if !rest.is_empty() {
        return timed("tests", cargo("test").args(rest).envs(clients));
    }
    timed("tests of the libraries", cargo("test").args(LIBRARIES))?;
    timed(
        "tests of the program with real clients",
        cargo("test").args(["--package", "kontiki", "--", "--test-threads=1"]).envs(clients),
    )
}

/// Licences, sources and banned crates. The advisory database lies outside the package registries, so that part is a
/// command of its own: `cargo deny check advisories`.
fn deny() -> Result<(), Failure> {
    if on_path("cargo-deny").is_none() && run(Command::new("cargo").args(["deny", "--version"])).is_err() {
        step("installing cargo-deny (once a machine)");
        run(cargo("install").args(["--locked", "cargo-deny", "--version", CARGO_DENY_VERSION]))?;
    }
    timed(
        "licences",
        Command::new("cargo").current_dir(crate::process::workspace()).env("PATH", path_with_tools()).args([
            "deny",
            "--offline",
            "--all-features",
            "check",
            "licenses",
            "bans",
            "sources",
        ]),
    )
}
