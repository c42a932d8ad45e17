//! Compiles `proto/*.proto` with protox, so that no protoc is needed, into types whose `bytes` fields are `bytes::Bytes`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/client.proto", "proto/peer.proto"], ["proto"])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
