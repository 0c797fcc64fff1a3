//! Which model is measured, and on which engine: the same for the bare engine and for the server.

use std::path::PathBuf;

use anyhow::Context as _;
use tidemill::{
    config::Config,
    engine::{EngineChoice, engine_named},
    registry::EMBEDDED_NAME,
};

/// An engine for models that leave the choice open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum EngineName {
    Rten,
    Onnxruntime,
}

impl EngineName {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Rten => "rten",
            Self::Onnxruntime => "onnxruntime",
        }
    }

    fn choice(self) -> EngineChoice {
        engine_named(self.label()).map_or(EngineChoice::Auto, EngineChoice::Named)
    }
}

/// The engine, as flags. A server at --addr has its own, which should be the same.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct EngineArgs {
    /// Engine of the model
    #[arg(long, value_enum, default_value_t = EngineName::Rten)]
    pub(crate) engine: EngineName,

    /// ONNX Runtime's shared library, for --engine onnxruntime
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
}

impl EngineArgs {
    /// Loads the engine's library, if it has one.
    pub(crate) fn prepare(&self) -> anyhow::Result<EngineChoice> {
        let choice = self.engine.choice();
        if let EngineChoice::Named(engine) = choice
            && let Some(library) = engine.library()
        {
            library.load(self.onnxruntime.as_deref().context("--engine onnxruntime needs --onnxruntime PATH")?)?;
        }
        Ok(choice)
    }

    pub(crate) fn configure(&self, config: &mut Config) {
        config.engine.default = self.engine.choice();
        config.engine.onnxruntime = self.onnxruntime.clone().filter(|_| self.engine == EngineName::Onnxruntime);
    }
}

/// The model and its engine, as flags.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Subject {
    #[command(flatten)]
    pub(crate) engine: EngineArgs,

    /// Folder of models, instead of the speech model inside the binary
    #[arg(long, value_name = "DIR", requires = "model")]
    pub(crate) models: Option<PathBuf>,

    /// The model in that folder
    #[arg(long, requires = "models")]
    model: Option<String>,
}

impl Subject {
    /// The speech model inside the binary.
    pub(crate) const fn silero(engine: EngineArgs) -> Self {
        Self { engine, models: None, model: None }
    }

    pub(crate) fn model(&self) -> &str {
        self.model.as_deref().unwrap_or(EMBEDDED_NAME)
    }

    pub(crate) fn configure(&self, config: &mut Config) {
        self.engine.configure(config);
        config.models.dir.clone_from(&self.models);
        // Models that are not measured need not be loaded.
        config.models.embedded = self.models.is_none();
        config.models.example = false;
    }
}
