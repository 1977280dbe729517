//! `kontiki`: an etcd, a Kubernetes API and the machine that runs your commands, in one program.
//!
//! One file per subcommand; each reads its arguments, builds a configuration, runs, and drains on SIGTERM. Started under
//! the name `etcd` the program is `kontiki store`. Started as `shim` it is the single-threaded process that holds a pod's
//! containers, and nothing of the rest may run before it.

#![allow(clippy::disallowed_methods, reason = "the program is an edge")]

mod bench;
mod control;
mod dev;
mod etcd;
mod image;
mod kubeconfig;
mod logging;
mod net;
mod node_agent;
mod server;
mod signals;
mod snapshot;
mod store;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A write is a few dozen small allocations on three members: the C library's allocator took a tenth of their time. This one
/// asks for huge pages where the system offers them, for 15 MB of an idle member and another tenth of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An etcd, a Kubernetes API and the machine that runs your commands, in one program.
#[derive(Parser)]
#[command(name = "kontiki", version, about, arg_required_else_help = true, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole cluster on this machine: three servers and two node agents; Ctrl-C stops it all.
    Dev(dev::Arguments),
    /// Run a store member with the control plane embedded: the normal way to run.
    Server(server::Arguments),
    /// Run a store member alone; takes etcd's flags. A link named `etcd` is this subcommand.
    #[command(disable_help_flag = true, disable_version_flag = true)]
    Store(store::Arguments),
    /// Run the control plane alone, against any etcd v3 endpoints.
    Control(control::Arguments),
    /// Run the pods of this Linux machine.
    NodeAgent(node_agent::Arguments),
    /// Make credentials for the administrator or a node agent.
    Kubeconfig(kubeconfig::Arguments),
    /// Import and list the images of a node agent.
    Image(image::Arguments),
    /// Measure an etcd v3 server, alone or in turn with another.
    Bench(bench::Arguments),
    /// Save the store's data to a file, look at such a file, and begin a new cluster with it.
    Snapshot(snapshot::Arguments),
}

/// A server's memory grows by small pages. A huge one is cleared where it is first touched, while nobody is answered: in a
/// virtual machine whose own memory comes on demand, that took up to 15 ms. Other commands start programs of others, which
/// would inherit it.
fn small_pages() {
    // Kernels without huge pages refuse, and need none of it.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|first| first == "shim") {
        kontiki_node_agent::runtime::shim_main();
    }
    let code = run(arguments);
    logging::flush();
    code
}

fn run(mut arguments: Vec<OsString>) -> ExitCode {
    let named_etcd = net::is_named_etcd(&arguments);
    if named_etcd || arguments.get(1).is_some_and(|first| first == "store" || first == "server") {
        small_pages();
    }
    if named_etcd {
        arguments.insert(1, "store".into());
    }
    let result = match Arguments::parse_from(arguments).command {
        Command::Dev(arguments) => dev::run(&arguments),
        Command::Server(arguments) => server::run(&arguments),
        Command::Store(arguments) => {
            return store::main(&arguments, if named_etcd { "etcd" } else { "kontiki store" });
        }
        Command::Control(arguments) => control::run(&arguments),
        Command::NodeAgent(arguments) => node_agent::run(&arguments),
        Command::Kubeconfig(arguments) => kubeconfig::run(&arguments),
        Command::Image(arguments) => image::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Snapshot(arguments) => snapshot::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kontiki: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_flags_of_every_subcommand_fit_together() {
        super::Arguments::command().debug_assert();
    }
}
