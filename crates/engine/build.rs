//! Finds the version of rten, which is part of what a model's proof holds for, and for the tests the official file of Silero VAD.

#![expect(clippy::disallowed_methods, reason = "a build script gets what it needs from the environment")]

use std::{env, error::Error};

use cargo_metadata::{Metadata, MetadataCommand, Package};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../../Cargo.lock");
    let options = vec!["--locked".to_owned(), "--filter-platform".to_owned(), env::var("TARGET")?];
    let metadata = MetadataCommand::new().other_options(options).exec()?;
    println!("cargo::rustc-env=TIDEMILL_RTEN={}", package(&metadata, "rten")?.version);
    let silero = package(&metadata, "silero")?.manifest_path.parent().ok_or("the crate `silero` has no folder")?;
    println!("cargo::rustc-env=TIDEMILL_SILERO_ONNX={}", silero.join("models/silero_vad.onnx"));
    Ok(())
}

fn package<'a>(metadata: &'a Metadata, name: &str) -> Result<&'a Package, String> {
    let found = metadata.packages.iter().find(|package| package.name.as_str() == name);
    found.ok_or_else(|| format!("the crate `{name}` is not among the dependencies"))
}
