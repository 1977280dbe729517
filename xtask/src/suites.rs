//! Clients that others wrote, made ready for the suites in `tests/`: the published test suite of the `etcd-client` crate,
//! built from its package as it is, and Python clients in an environment of their own.
//!
//! They come from the package registries, are built once a machine, and are handed to the tests in environment
//! variables; a test that misses its client says so and fails.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Failure, cache, run, step};

const ETCD_CLIENT_VERSION: &str = "0.21.1";
/// Its test programs, and the variables that name them to `tests/etcd_client_suite.rs`.
const ETCD_CLIENT_PROGRAMS: [(&str, &str); 2] =
    [("client", "KONTIKI_ETCD_CLIENT_TESTS"), ("namespace", "KONTIKI_ETCD_CLIENT_NAMESPACE_TESTS")];

/// One client over gRPC, one over the JSON gateway.
const PYTHON_CLIENTS: [&str; 2] = ["aetcd==1.0.0", "etcd3gw==2.7.0"];
const PYTHON: &str = "KONTIKI_PYTHON";

/// Builds what is missing; returns the variables for the tests.
pub fn prepare() -> Result<Vec<(&'static str, PathBuf)>, Failure> {
    let mut variables = etcd_client()?;
    variables.push((PYTHON, python()?));
    Ok(variables)
}

fn etcd_client() -> Result<Vec<(&'static str, PathBuf)>, Failure> {
    let home = cache().join(format!("suites/etcd-client-{ETCD_CLIENT_VERSION}"));
    let programs = home.join("bin");
    let variables = ETCD_CLIENT_PROGRAMS.map(|(name, variable)| (variable, programs.join(name)));
    if variables.iter().all(|(_, program)| program.is_file()) {
        return Ok(variables.into());
    }
    step(&format!("building the test suite of etcd-client {ETCD_CLIENT_VERSION} (once a machine)"));
    let source = home.join("source");
    unpack_crate("etcd-client", ETCD_CLIENT_VERSION, &home.join("fetch"), &source)?;
    let target = home.join("target");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.current_dir(&source).args(["test", "--quiet", "--no-run"]).env("CARGO_TARGET_DIR", &target);
    for (name, _) in ETCD_CLIENT_PROGRAMS {
        build.args(["--test", name]);
    }
    run(&mut build)?;
    create_dir(&programs)?;
    for (name, _) in ETCD_CLIENT_PROGRAMS {
        copy(&built(&target.join("debug/deps"), name)?, &programs.join(name))?;
    }
    std::fs::remove_dir_all(&target)
        .map_err(|error| Failure::new(format!("cannot remove {target:?}: {error}")))
        .map(|()| variables.into())
}

/// Copies a published crate's package to `source`, so that it can be built apart from the registry's copy.
fn unpack_crate(name: &str, version: &str, scratch: &Path, source: &Path) -> Result<(), Failure> {
    for dir in [scratch, source] {
        // What an earlier attempt left would be taken for the package.
        let _ = std::fs::remove_dir_all(dir);
    }
    create_dir(&scratch.join("src"))?;
    let manifest = format!(
        "[package]\nname = \"fetch\"\nedition = \"2024\"\n\n[dependencies]\n{name} = \"={version}\"\n\n[workspace]\n"
    );
    write(&scratch.join("Cargo.toml"), &manifest)?;
    write(&scratch.join("src/lib.rs"), "")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo).current_dir(scratch).args(["fetch", "--quiet"]))?;
    let package = registry_source(&format!("{name}-{version}"))?;
    run(Command::new("cp").arg("--recursive").arg(package).arg(source))
}

/// Where cargo unpacked a package.
fn registry_source(package: &str) -> Result<PathBuf, Failure> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let registries = home.ok_or_else(|| Failure::new("neither CARGO_HOME nor HOME is set"))?.join("registry/src");
    entries(&registries)?
        .into_iter()
        .map(|registry| registry.join(package))
        .find(|path| path.is_dir())
        .ok_or_else(|| Failure::new(format!("cargo fetch left no {package} in {}", registries.display())))
}

/// The test program that cargo built under a name with a hash.
fn built(dir: &Path, name: &str) -> Result<PathBuf, Failure> {
    let prefix = format!("{name}-");
    entries(dir)?
        .into_iter()
        .find(|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            path.extension().is_none() && file.starts_with(&prefix)
        })
        .ok_or_else(|| Failure::new(format!("cargo left no program {name} in {}", dir.display())))
}

fn python() -> Result<PathBuf, Failure> {
    let home = cache().join("suites/python");
    let (python, done) = (home.join("bin/python"), home.join(PYTHON_CLIENTS.join("+")));
    if !done.is_file() {
        step("installing Python clients of etcd (once a machine)");
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(PYTHON_CLIENTS))?;
        write(&done, "")?;
    }
    Ok(python)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = std::fs::read_dir(dir);
    let entries = entries.map_err(|error| Failure::new(format!("cannot list {}: {error}", dir.display())))?;
    Ok(entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect())
}

fn create_dir(dir: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(dir).map_err(|error| Failure::new(format!("cannot create {}: {error}", dir.display())))
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|error| Failure::new(format!("cannot write {}: {error}", file.display())))
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let copied = std::fs::copy(from, to);
    copied.map(drop).map_err(|error| Failure::new(format!("cannot copy {}: {error}", from.display())))
}
