//! Compiles the `.proto` files with a pure-Rust compiler, so that no `protoc` is needed on the machine.

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["v3election.proto", "v3lock.proto"], ["proto"])?;
    let mut prost = tonic_prost_build::Config::new();
    // Keys and values stay slices of the receive buffer.
    prost.bytes(["."]);
    // For whoever has to know of every service: the access table's test.
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().build_transport(false).compile_fds_with_config(descriptors, prost)?;
    Ok(())
}
