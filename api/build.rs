//! Compiles the `.proto` files with a pure-Rust compiler, so that no `protoc` is needed on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["v3election.proto", "v3lock.proto"], ["proto"])?;
    let mut prost = tonic_prost_build::Config::new();
    // Keys and values stay slices of the receive buffer.
    prost.bytes(["."]);
    tonic_prost_build::configure().build_transport(false).compile_fds_with_config(descriptors, prost)?;
    Ok(())
}
