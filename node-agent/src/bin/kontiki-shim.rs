//! The shim alone, for tests of the runtime: the real program runs it as its hidden subcommand `shim`.

fn main() {
    kontiki_node_agent::runtime::shim_main()
}
