//! What the server knows about an engine before it has a model: its name, its needs, and how it makes an [`Engine`] from a
//! model.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use tidemill_domain::Signature;
use toml::Value;

use super::{
    Engine, EngineError, LaneHost,
    onnx::{ModelFile, Narrowing},
};

/// An engine, as a value. All that differs from one engine to the next is behind this trait, and nothing above names one.
pub trait EngineFactory: Sync {
    /// Its name in manifests, settings, messages and metrics.
    fn name(&self) -> &'static str;

    /// Its version, if another one might compute different numbers; else empty.
    fn version(&self) -> String {
        String::new()
    }

    /// The library that it runs on, if that is loaded while the server starts rather than compiled in.
    fn library(&self) -> Option<&dyn EngineLibrary> {
        None
    }

    /// The source of its models.
    fn runs(&self) -> Runs<'_>;

    /// What it keeps for each lane of a device of `lanes` lanes, followed by the long ones; nothing for most engines.
    fn lane_hosts(&self, _lanes: usize, _long_lanes: usize) -> Vec<Arc<dyn LaneHost>> {
        Vec::new()
    }
}

/// Two are the same engine if they have the same name.
impl PartialEq for dyn EngineFactory {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for dyn EngineFactory {}

impl fmt::Debug for dyn EngineFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The source of an engine's models.
#[derive(Clone, Copy)]
pub enum Runs<'a> {
    /// Model files.
    Files(&'a dyn FileEngine),
    /// The table of its name in a manifest, in place of a file.
    Scripts(&'a dyn ScriptEngine),
}

/// A library that is loaded into this process.
pub trait EngineLibrary: Sync {
    /// Finds it where this system has it. `variable` gives the process's environment.
    ///
    /// # Errors
    /// [`EngineError::Library`] with the places that were searched.
    fn find(&self, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf, EngineError>;

    /// Loads the library at `path`; does nothing if it is loaded already. Comes before any model.
    ///
    /// # Errors
    /// [`EngineError::Library`] if the file is missing or not a usable library, or another one is loaded.
    fn load(&self, path: &Path) -> Result<(), EngineError>;

    /// Whether a working one is loaded.
    ///
    /// # Errors
    /// [`EngineError::Library`], which says how to get one.
    fn check(&self) -> Result<(), EngineError>;
}

/// A manifest's wishes for the engine that runs its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wishes {
    /// Whether the engine may compute in fewer bits than the file says.
    pub allow_narrowing: bool,
    /// Whether the engine is to hold weights in packed form too.
    pub pack_weights: bool,
}

/// An engine that runs model files.
pub trait FileEngine: Sync {
    /// What it lacks, in words that follow its name, if it is an engine that may be allowed to compute in fewer bits than a file
    /// says.
    fn narrows(&self) -> Option<&'static str> {
        None
    }

    /// Why another engine would be the better one for a file that computes so.
    fn doubt(&self, _narrowing: &Narrowing) -> Option<&'static str> {
        None
    }

    /// Logs what there is to know about a loaded model whose file computes so.
    fn announce(&self, _model: &str, _narrowing: &Narrowing, _allow_narrowing: bool) {}

    /// Whether it can hold weights a second time, in the form that makes calls fastest.
    fn packs_weights(&self) -> bool {
        false
    }

    /// Loads a file.
    ///
    /// # Errors
    /// [`EngineError::Load`] if it lacks something that the file needs; [`EngineError::Library`] if its library is not loaded.
    fn open(&self, file: ModelFile, wishes: Wishes) -> Result<Arc<dyn Engine>, EngineError>;
}

/// An engine that runs what a manifest's table says.
pub trait ScriptEngine: Sync {
    /// Checks that `script`, the table or a part of it, can be read.
    ///
    /// # Errors
    /// What is wrong with a key or the type of a value.
    fn read(&self, script: &Value) -> Result<(), String>;

    /// Checks that the values of the whole table make sense.
    ///
    /// # Errors
    /// [`EngineError::Load`] if one does not.
    fn check(&self, script: &Value) -> Result<(), EngineError>;

    /// Makes an engine for this signature.
    ///
    /// # Errors
    /// [`EngineError::Load`] if the table and the signature do not go together.
    fn make(&self, script: &Value, signature: &Arc<Signature>) -> Result<Arc<dyn Engine>, EngineError>;
}
