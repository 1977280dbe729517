//! What the machine must have: found, or installed as root on Debian and Ubuntu, or told in one command.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::process::{Failure, cache, on_path, run, step, tools};

/// Something needed, how to see that it is there, and the Debian package that brings it.
pub struct Need {
    what: &'static str,
    package: &'static str,
    present: fn() -> bool,
    /// Unpacked into the tools folder instead of installed: installing the package would start a service, or take the place of
    /// the machine's own program.
    unpack_only: bool,
}

const COMPILERS: &[Need] = &[
    Need { what: "a C++ compiler", package: "g++", present: || on_path("g++").is_some(), unpack_only: false },
    Need { what: "make", package: "make", present: || on_path("make").is_some(), unpack_only: false },
    Need { what: "libclang (RocksDB's bindings)", package: "libclang-dev", present: libclang, unpack_only: false },
    Need { what: "a compiler cache", package: "ccache", present: || on_path("ccache").is_some(), unpack_only: false },
];

const KUBECTL: Need = Need {
    what: "kubectl",
    package: "kubernetes-client",
    present: || on_path("kubectl").is_some(),
    unpack_only: false,
};
/// kubectl 1.20 on Debian 12, beside a newer one: tests run every kubectl they find, and the oldest must not be lost where the
/// machine has another. Where it cannot be installed, the others do.
const DEBIANS_KUBECTL: Need = Need {
    what: "Debian's kubectl (tests run old and new ones)",
    package: "kubernetes-client",
    present: || {
        let package_is_installed = Path::new("/usr/share/doc/kubernetes-client").is_dir();
        let other_must_do = !can_install() && on_path("kubectl").is_some();
        tools().join("kubectl").is_file() || package_is_installed || other_must_do
    },
    unpack_only: true,
};
const DEBOOTSTRAP: Need = Need {
    what: "debootstrap (builds the debian image)",
    package: "debootstrap",
    present: || on_path("debootstrap").is_some() || cache().join("images/debian.tar").is_file(),
    unpack_only: false,
};
const ETCDCTL: Need =
    Need { what: "etcdctl", package: "etcd-client", present: || on_path("etcdctl").is_some(), unpack_only: false };
const ETCD: Need = Need {
    what: "etcd (tests run the control plane on it)",
    package: "etcd-server",
    present: || on_path("etcd").is_some(),
    unpack_only: true,
};
const BUSYBOX: Need = Need {
    what: "a static busybox (the small test image)",
    package: "busybox-static",
    present: || Path::new("/bin/busybox").is_file(),
    unpack_only: false,
};
const QEMU: Need = Need {
    what: "qemu (a virtual machine with Debian 12's kernel)",
    package: "qemu-system-x86",
    present: || on_path("qemu-system-x86_64").is_some(),
    unpack_only: false,
};
const MKE2FS: Need = Need {
    what: "mke2fs (disks of the virtual machine and of the benchmark)",
    package: "e2fsprogs",
    present: || Path::new("/sbin/mke2fs").is_file(),
    unpack_only: false,
};

const PROTOC: Need = Need {
    what: "protoc (builds the test suite of the etcd-client crate)",
    package: "protobuf-compiler",
    present: || on_path("protoc").is_some(),
    unpack_only: false,
};
const PROTOC_TYPES: Need = Need {
    what: "protoc's own messages",
    package: "libprotobuf-dev",
    present: || Path::new("/usr/include/google/protobuf/descriptor.proto").is_file(),
    unpack_only: false,
};
const PYTHON: Need = Need {
    what: "Python with venv (runs Python clients of etcd)",
    package: "python3-venv",
    present: || on_path("python3").is_some() && python_has_venv(),
    unpack_only: false,
};

/// To compile.
pub const BUILD: &[&[Need]] = &[COMPILERS];
/// To build and show the demonstration.
pub const DEMO: &[&[Need]] = &[COMPILERS, &[KUBECTL, DEBOOTSTRAP]];
/// To build and run every test.
pub const ALL: &[&[Need]] =
    &[COMPILERS, &[DEBIANS_KUBECTL, ETCDCTL, ETCD, BUSYBOX, MKE2FS, PROTOC, PROTOC_TYPES, PYTHON]];
/// To run the node agent's tests in a virtual machine.
pub const VM: &[&[Need]] = &[COMPILERS, &[BUSYBOX, QEMU, MKE2FS]];

/// Installs what is missing of `needs`.
pub fn ensure(needs: &[&[Need]]) -> Result<(), Failure> {
    let missing: Vec<&Need> = needs.iter().copied().flatten().filter(|need| !(need.present)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for need in &missing {
        step(&format!("missing: {} (package {})", need.what, need.package));
    }
    let install: Vec<&str> = missing.iter().filter(|n| !n.unpack_only).map(|n| n.package).collect();
    let unpack: Vec<&str> = missing.iter().filter(|n| n.unpack_only).map(|n| n.package).collect();
    if !can_install() {
        let all: Vec<&str> = missing.iter().map(|n| n.package).collect();
        return Err(Failure::new(format!(
            "these packages are missing; as root on Debian or Ubuntu: apt-get install {}",
            all.join(" ")
        )));
    }
    run(apt_get().args(["--quiet", "update"]))?;
    if !install.is_empty() {
        run(apt_get().args(["--quiet", "--yes", "--no-install-recommends", "install"]).args(&install))?;
    }
    for package in unpack {
        let root: PathBuf = tools().ancestors().nth(2).expect("tools ends in usr/bin").to_owned();
        unpack_package(package, &root)?;
    }
    match missing.iter().find(|need| !(need.present)()) {
        None => Ok(()),
        Some(need) => Err(Failure::new(format!("{} is still missing after installing {}", need.what, need.package))),
    }
}

/// Asks the package sources what they have, where that is allowed; anybody may download what was known already.
pub fn update_package_lists() -> Result<(), Failure> {
    match on_path("apt-get") {
        None => Err(Failure::new("this machine has no apt-get")),
        Some(_) if is_root() => run(apt_get().args(["--quiet", "update"])),
        Some(_) => Ok(()),
    }
}

/// Downloads a package and unpacks it below `root`, without installing it.
pub fn unpack_package(package: &str, root: &Path) -> Result<(), Failure> {
    let downloads = cache().join("packages");
    for dir in [downloads.as_path(), root] {
        std::fs::create_dir_all(dir).map_err(|e| Failure::new(format!("cannot create {}: {e}", dir.display())))?;
    }
    run(apt_get().current_dir(&downloads).args(["--quiet", "download", package]))?;
    let prefix = format!("{package}_");
    let file = std::fs::read_dir(&downloads)
        .map_err(|e| Failure::new(format!("cannot list {}: {e}", downloads.display())))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
        .ok_or_else(|| Failure::new(format!("apt-get download {package} left no file")))?;
    run(Command::new("dpkg").arg("-x").arg(&file).arg(root))
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}

fn can_install() -> bool {
    is_root() && on_path("apt-get").is_some()
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

/// Debian's Python has the module but not what it needs, unless the package is there.
fn python_has_venv() -> bool {
    let imports = Command::new("python3").args(["-c", "import ensurepip, venv"]).stderr(Stdio::null()).status();
    imports.is_ok_and(|status| status.success())
}

fn libclang() -> bool {
    let Ok(entries) = std::fs::read_dir("/usr/lib") else { return false };
    let llvm = entries.filter_map(Result::ok).filter(|e| e.file_name().to_string_lossy().starts_with("llvm-"));
    std::env::var_os("LIBCLANG_PATH").is_some()
        || llvm.map(|e| e.path().join("lib")).any(|lib| has_libclang(&lib))
        || has_libclang(Path::new("/usr/lib64"))
}

fn has_libclang(dir: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    entries.filter_map(Result::ok).any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        // `libclang-14.so.1` is the library; `libclang-cpp.so.14` is another one that compilers bring along.
        name.starts_with("libclang.so") || (name.starts_with("libclang-") && !name.starts_with("libclang-cpp"))
    })
}
