//! Compiles `proto/`: the messages, the services over our own codecs, and the descriptor set for reflection.

#![expect(clippy::disallowed_methods, reason = "a build script gets what it needs from the environment")]

use std::{env, error::Error, fs, path::PathBuf};

/// Where the protos are, from this package.
const FOLDER: &str = "../../proto";

/// The native service comes first.
const PROTOS: &[&str] = &[
    "tidemill/v1/inference.proto",
    "tidemill/v1/model.proto",
    "inference/grpc_service.proto",
    "inference/model_config.proto",
    "model/model.proto",
    "grpc/health/v1/health.proto",
    "google/rpc/error_details.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={FOLDER}");
    let file = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    let mut compiler = protox::Compiler::new([FOLDER])?;
    compiler.include_imports(true).include_source_info(true).open_files(PROTOS)?;
    // Types that are generated have no place for the options that say how RPCs are called over HTTP; these bytes have them.
    fs::write(&file, compiler.encode_file_descriptor_set())?;
    let mut descriptors = compiler.file_descriptor_set();
    descriptors.file.retain(|file| file.package() != "google.api");
    // For the server's build script, which generates its own form of some of the services.
    println!("cargo::metadata=descriptors={}", file.display());
    let generate = |is_open_inference: bool, codec: &str| {
        let mut descriptors = descriptors.clone();
        descriptors.file.retain(|file| (file.package() == "inference") == is_open_inference);
        tonic_prost_build::configure()
            // The server generates its own form of it.
            .build_server(!is_open_inference)
            .bytes(".tidemill")
            .bytes(".inference")
            .btree_map(".inference")
            .codec_path(codec)
            .extern_path(".google.rpc", "::tonic_types::pb")
            .compile_fds(descriptors)
    };
    generate(true, "crate::codec::FewFieldsCodec")?;
    generate(false, "crate::codec::SmallBufferCodec")?;
    Ok(())
}
