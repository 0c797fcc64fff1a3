//! Loads the onnxruntime library, once per process and only from the named file.
//!
//! The crate `ort` would search for a library on its own when its API is first used, and panic if there is none. Nothing here touches that
//! API before a library is in place.

use std::{
    fmt, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};

use ort::{environment::Environment, logging::LogLevel};
use parking_lot::Mutex;

use crate::{EngineError, panic_message};

static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

/// The library that this process has loaded; it cannot be unloaded, not even if it does not work.
struct Loaded {
    path: PathBuf,
    environment: Result<Environment, String>,
}

/// Loads the library at `path`; does nothing if that is loaded already.
pub(super) fn load(path: &Path) -> Result<(), EngineError> {
    let canonical = fs::canonicalize(path).map_err(|error| unusable(path, &error))?;
    let mut loaded = LOADED.lock();
    if let Some(loaded) = &*loaded {
        if loaded.path != canonical {
            let text = format!(
                "cannot load the onnxruntime library '{}': this process has loaded '{}', and can hold only one",
                path.display(),
                loaded.path.display()
            );
            return Err(EngineError::Library(text));
        }
        return loaded.environment.as_ref().map(|_| ()).map_err(|cause| unusable(path, cause));
    }
    let opened = catch_unwind(|| ort::init_from(&canonical).map_err(|error| error.to_string()));
    let builder =
        opened.unwrap_or_else(|panic| Err(panic_message(&*panic).to_owned())).map_err(|cause| unusable(path, &cause))?;
    let built = catch_unwind(AssertUnwindSafe(|| {
        let builder = builder.with_name("tidemill").with_telemetry(false).with_logger(Arc::new(log));
        let environment = builder.build().map_err(|error| error.to_string())?;
        environment.set_log_level(LogLevel::Warning);
        Ok(environment)
    }));
    let environment = built.unwrap_or_else(|panic| Err(panic_message(&*panic).to_owned()));
    let outcome = environment.as_ref().map(|_| ()).map_err(|cause| unusable(path, cause));
    *loaded = Some(Loaded { path: canonical, environment });
    outcome
}

/// The loaded library's environment, in which sessions are made.
pub(super) fn environment() -> Result<Environment, EngineError> {
    match &*LOADED.lock() {
        Some(Loaded { environment: Ok(environment), .. }) => Ok(environment.clone()),
        Some(Loaded { environment: Err(cause), path }) => Err(unusable(path, cause)),
        None => Err(EngineError::Library(format!("the onnxruntime engine needs its library, and none is named; {REMEDY}"))),
    }
}

/// The loaded library's description of its build; empty if none is loaded.
pub(super) fn version() -> String {
    match &*LOADED.lock() {
        Some(Loaded { environment: Ok(_), .. }) => ort::info().to_owned(),
        _ => String::new(),
    }
}

pub(super) const REMEDY: &str = "get it with `pip install onnxruntime`, where it is the file `capi/libonnxruntime.so.*` of the \
                                 package, and let --onnxruntime auto find it, or name it with --onnxruntime PATH or \
                                 ORT_DYLIB_PATH";

fn unusable(path: &Path, cause: &dyn fmt::Display) -> EngineError {
    EngineError::Library(format!("cannot load the onnxruntime library '{}': {cause}; {REMEDY}", path.display()))
}

/// Every failure is also returned as an error and logged where it is handled; this is for more detail.
fn log(level: LogLevel, category: &str, _id: &str, location: &str, message: &str) {
    tracing::debug!(?level, category, location, "onnxruntime: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path) -> String {
        match load(path) {
            Err(EngineError::Library(message)) => message,
            other => panic!("{} was not refused: {other:?}", path.display()),
        }
    }

    #[test]
    fn a_missing_file_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("libonnxruntime.so");
        let message = refused(&path);
        let start = format!("cannot load the onnxruntime library '{}': No such file", path.display());
        assert!(message.starts_with(&start), "{message}");
        for hint in ["pip install onnxruntime", "--onnxruntime PATH", "ORT_DYLIB_PATH"] {
            assert!(message.contains(hint), "{message}");
        }
    }

    #[test]
    fn a_file_that_is_not_a_library_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("text.so");
        fs::write(&path, "not a library").expect("it can be written");
        // Another test may have loaded a real one by now, which is also a reason.
        let message = refused(&path);
        assert!(message.contains(&format!("'{}'", path.display())), "{message}");
    }
}
