//! The developer's commands. `cargo xtask demo` and `cargo xtask test` are all a newcomer needs on a bare machine.
//!
//! This crate has no dependency, so that it compiles in seconds and can say what happens while everything else builds.

#![allow(clippy::disallowed_methods, reason = "the whole of it is an edge")]

mod bench;
mod ci;
mod process;
mod rootfs;
mod schema_table;
mod setup;
mod suites;
mod vm;

use std::process::ExitCode;

use process::{Failure, cargo, run};

const USAGE: &str = "\
cargo xtask <command>

  demo     set up what is missing, build, and show the whole path of a command through a three-server cluster
  test     set up what is missing, run every test; further arguments go to `cargo test` (a package, a filter)
  vm-test  run the node agent's tests on Debian 12's own kernel, in a virtual machine; further arguments go to the tests
  ci       what CI runs: format, lints, documentation, licences, tests, vm-test
  bench    run the criterion benchmarks and a short `kontiki bench`, and tell what changed since the last time here; with
           arguments, which go to `cargo bench`, only what that runs
  schema-table  rewrite control/src/schema/table.txt from the sources of k8s-openapi and k8s-pb
  setup    only install what the build and the tests need
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let result = match command.as_str() {
        "demo" => demo(&rest),
        "test" => test(&rest),
        "vm-test" => vm::test(&rest),
        "ci" => ci::run_all(),
        "bench" => bench::run_all(&rest),
        "schema-table" => schema_table::generate(),
        "setup" => setup::ensure(setup::ALL),
        "" | "help" | "-h" | "--help" => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        other => Err(Failure::new(format!("unknown command {other:?}\n\n{USAGE}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn demo(rest: &[String]) -> Result<(), Failure> {
    setup::ensure(setup::DEMO)?;
    let image = rootfs::debian()?;
    process::step("building kontiki (the first build compiles RocksDB: ten minutes and more on two cores)");
    run(cargo("build").args(["--package", "kontiki", "--bin", "kontiki", "--example", "demo"]))?;
    run(cargo("run")
        .args(["--quiet", "--package", "kontiki", "--example", "demo", "--", "--debian-image"])
        .arg(&image)
        .args(rest))
}

fn test(rest: &[String]) -> Result<(), Failure> {
    setup::ensure(setup::ALL)?;
    ci::tests(rest)
}
