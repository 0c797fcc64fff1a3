//! Generates the server's own form of the services, and makes the embedded models out of Silero VAD's file.
//!
//! Nothing is downloaded: `tidemill-wire` has compiled the protos, and the file lies in the crate
//! `silero` that cargo has already fetched as a build dependency.

#![expect(clippy::disallowed_methods, reason = "a build script gets what it needs from the environment")]

#[path = "build/silero/mod.rs"]
mod silero;

use std::{
    collections::BTreeSet,
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{Metadata, Package};
use prost::Message as _;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};
use sha2::{Digest as _, Sha256};

type BuildResult<T> = Result<T, Box<dyn Error>>;

/// SHA-256 of `models/silero_vad.onnx` in the crate `silero` 0.7.0 (Silero VAD 6.2, MIT).
const SILERO_SHA256: &str = "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3";

/// The file of the native service.
const NATIVE: &str = "tidemill/v1/inference.proto";

fn main() -> BuildResult<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=Cargo.lock");
    generate_services()?;
    let metadata = dependencies()?;
    make_models(&metadata)?;
    println!("cargo::rustc-env=TIDEMILL_RUSTC={}", rustc_version());
    Ok(())
}

/// Generates the services as the server serves them, from the descriptors that `tidemill-wire` has made.
fn generate_services() -> BuildResult<()> {
    let file = PathBuf::from(env::var("DEP_TIDEMILL_WIRE_DESCRIPTORS")?);
    println!("cargo::rerun-if-changed={}", file.display());
    let mut descriptors = FileDescriptorSet::decode(read(&file)?.as_slice())?;
    descriptors.file.retain(|file| file.package() != "google.api");
    let serving = PathBuf::from(env::var("OUT_DIR")?).join("serving");
    fs::create_dir_all(&serving)?;
    for service in &RAW_SERVICES {
        generate_raw(&descriptors, service, &serving)?;
    }
    generate_serving(&descriptors, &serving)
}

/// A service with a request that the server takes as bytes, and decodes where that does not keep others waiting.
struct RawService {
    file: &'static str,
    package: &'static str,
    /// The module of the package's messages.
    module: &'static str,
    codec: &'static str,
    /// Messages, and the types that replace them.
    types: &'static [(&'static str, &'static str)],
}

const RAW_SERVICES: [RawService; 2] = [
    RawService {
        file: "inference/grpc_service.proto",
        package: ".inference",
        module: "::tidemill_wire::inference",
        codec: "::tidemill_wire::codec::SmallBufferCodec",
        types: &[
            (".inference.ModelInferRequest", "crate::frontend::messages::wire::InferRequestBytes"),
            (".inference.ModelInferResponse", "crate::frontend::messages::wire::EncodedInferResponse"),
        ],
    },
    RawService {
        file: "model/model.proto",
        package: ".model",
        module: "::tidemill_wire::model",
        codec: "::tidemill_wire::codec::SmallBufferCodec",
        types: &[(".model.PredictRequest", "crate::frontend::messages::wire::NumbersRequestBytes")],
    },
];

/// Generates such a service, and none of its messages.
fn generate_raw(all: &FileDescriptorSet, service: &RawService, out_dir: &Path) -> BuildResult<()> {
    let mut descriptors = all.clone();
    descriptors.file.retain(|file| file.name() == service.file);
    let mut builder = tonic_prost_build::configure()
        .out_dir(out_dir)
        .build_client(false)
        .codec_path(service.codec)
        .extern_path(service.package, service.module);
    for (name, path) in service.types {
        builder = builder.extern_path(name, path);
    }
    Ok(builder.compile_fds(descriptors)?)
}

/// Messages of the native API that the server reads straight into the domain, or writes from it, and the types that do so.
const SERVING_TYPES: [(&str, &str); 4] = [
    (".tidemill.v1.Item", "crate::frontend::messages::wire::ItemMessage"),
    (".tidemill.v1.ItemList", "crate::frontend::messages::wire::ItemListMessage"),
    (".tidemill.v1.ItemResult", "crate::frontend::messages::wire::ResultMessage"),
    (".tidemill.v1.UploadResponse", "crate::frontend::messages::wire::EncodedUploadResponse"),
];

/// Generates the native service as the server serves it: with our own types instead of those messages, and with the messages
/// that hold them generated again. All others are the common ones.
fn generate_serving(all: &FileDescriptorSet, out_dir: &Path) -> BuildResult<()> {
    let is_native = |file: &&FileDescriptorProto| file.name() == NATIVE;
    let file = all.file.iter().find(is_native).ok_or("the native service is not among the protos")?;
    let mut descriptors = all.clone();
    descriptors.file.retain(|other| is_native(&other) || file.dependency.iter().any(|name| name == other.name()));
    let full_name = |name: &str| format!(".{}.{name}", file.package());
    let mut anew: BTreeSet<String> = SERVING_TYPES.iter().map(|(name, _)| (*name).to_owned()).collect();
    let mut known = 0;
    while known < anew.len() {
        known = anew.len();
        let holds_one = |message: &&DescriptorProto| message.field.iter().any(|field| anew.contains(field.type_name()));
        let more: Vec<_> = file.message_type.iter().filter(holds_one).map(|message| full_name(message.name())).collect();
        anew.extend(more);
    }
    let mut builder = tonic_prost_build::configure()
        .out_dir(out_dir)
        .build_client(false)
        .bytes(".tidemill")
        .codec_path("::tidemill_wire::codec::SmallBufferCodec")
        .extern_path(".google.rpc", "::tonic_types::pb");
    for (name, path) in SERVING_TYPES {
        builder = builder.extern_path(name, path);
    }
    let messages = file.message_type.iter().map(DescriptorProto::name);
    for name in messages.chain(file.enum_type.iter().map(EnumDescriptorProto::name)) {
        if !anew.contains(&full_name(name)) {
            builder = builder.extern_path(full_name(name), format!("::tidemill_wire::v1::{name}"));
        }
    }
    Ok(builder.compile_fds(descriptors)?)
}

/// The packages that this build is made of.
fn dependencies() -> BuildResult<Metadata> {
    let options = vec!["--locked".to_owned(), "--filter-platform".to_owned(), env::var("TARGET")?];
    Ok(cargo_metadata::MetadataCommand::new().other_options(options).exec()?)
}

fn package<'a>(metadata: &'a Metadata, name: &str) -> BuildResult<&'a Package> {
    let found = metadata.packages.iter().find(|package| package.name.as_str() == name);
    Ok(found.ok_or_else(|| format!("the crate `{name}` is not among the dependencies"))?)
}

/// Finds the official model file in the crate `silero`, checks its hash, and writes a file for each sampling rate. Tests compare
/// these with the official one.
fn make_models(metadata: &Metadata) -> BuildResult<()> {
    let package = package(metadata, "silero")?;
    let folder = package.manifest_path.parent().ok_or("the crate `silero` has no folder")?.as_std_path();
    let file = folder.join("models/silero_vad.onnx");
    let bytes = read(&file)?;
    let hash = format!("{:x}", HexDigest(Sha256::digest(&bytes).as_slice()));
    if hash != SILERO_SHA256 {
        return Err(format!("{}: sha256 is {hash}, expected {SILERO_SHA256}", file.display()).into());
    }
    let notice = String::from_utf8(read(&folder.join("THIRD_PARTY_NOTICES.md"))?)?;
    let notice = silero_notice(&notice).ok_or("the crate `silero` has no notice of the model's licence")?;
    let origin = format!("silero_vad.onnx of Silero VAD 6.2 (https://github.com/snakers4/silero-vad), sha256 {hash}");
    for rate in silero::RATES {
        let model = silero::rewritten(&bytes, &rate, &origin, notice)
            .map_err(|error| format!("{}, {} Hz: {error}", file.display(), rate.hz))?;
        let path = PathBuf::from(env::var("OUT_DIR")?).join(format!("silero_vad_{}.onnx", rate.hz));
        fs::write(&path, model)?;
        println!("cargo::rustc-env=TIDEMILL_SILERO_{}={}", rate.hz, path.display());
    }
    println!("cargo::rustc-env=TIDEMILL_SILERO_ONNX={}", file.display());
    Ok(())
}

fn read(file: &Path) -> BuildResult<Vec<u8>> {
    Ok(fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?)
}

/// The licence that has to go with the model and with all that is made of it: the block of text that names its authors.
fn silero_notice(notices: &str) -> Option<&str> {
    let blocks = notices.split("```text\n").skip(1).filter_map(|rest| Some(rest.split_once("\n```")?.0));
    blocks.into_iter().find(|block| block.contains("Silero Team") && block.contains("Permission is hereby granted"))
}

/// Lower-case hexadecimal form of a digest.
struct HexDigest<'a>(&'a [u8]);

impl std::fmt::LowerHex for HexDigest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The output of `rustc --version`, for the build information metric; `unknown` if it cannot be asked.
fn rustc_version() -> String {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    std::process::Command::new(rustc)
        .arg("--version")
        .output()
        .ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .map_or_else(|| "unknown".to_owned(), |text| text.trim().to_owned())
}
