//! Generates the messages and stubs of `proto/` without a `protoc` binary.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["polder/v1/agent.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .bytes(".")
        // Secrets have a Debug of their own, which shows none of them (`src/grpc/secret.rs`).
        .skip_debug([
            "polder.v1.Assignment",
            "polder.v1.RegisterRequest",
            "polder.v1.PackPlace",
            "polder.v1.PackUrlReply",
        ])
        .compile_fds(files)?;
    Ok(())
}
