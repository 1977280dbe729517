//! Compiles the `.proto` files with a pure-Rust compiler, so that no `protoc` is needed on the machine.

use prost::Message;

#[allow(clippy::disallowed_methods, reason = "a build script writes what it makes")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["v3election.proto", "v3lock.proto"], ["proto"])?;
    // Without the comments, which nobody reads at run time.
    let mut bare = descriptors.clone();
    bare.file.iter_mut().for_each(|file| file.source_code_info = None);
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), bare.encode_to_vec())?;
    let mut prost = tonic_prost_build::Config::new();
    // Keys and values stay slices of the receive buffer.
    prost.bytes(["."]);
    tonic_prost_build::configure().build_transport(false).compile_fds_with_config(descriptors, prost)?;
    Ok(())
}
