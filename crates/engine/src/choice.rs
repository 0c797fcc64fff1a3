//! Which engine runs a model, as manifests and settings say it.

use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{
    EngineFactory,
    list::{ENGINES, file_engines},
};

/// What runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// The server's choice: an engine whose library is loaded, else one that is always there.
    #[default]
    Auto,
    /// This engine.
    Named(&'static dyn EngineFactory),
}

impl EngineChoice {
    /// Its name in manifests and settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Named(engine) => engine.name(),
        }
    }

    /// The choices for models that have a file.
    pub fn for_files() -> impl Iterator<Item = Self> {
        [Self::Auto].into_iter().chain(file_engines().map(Self::Named))
    }

    /// Reads the choice for models that have a file.
    ///
    /// # Errors
    /// The deserializer's, and for any other name one that lists what is accepted.
    pub fn deserialize_for_files<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        find(&String::deserialize(deserializer)?, Self::for_files()).map_err(D::Error::custom)
    }

    /// The same, but an engine whose library was named explicitly, if any, replaces [`EngineChoice::Auto`]: it was named to be
    /// used. `is_named` takes an engine's name.
    #[must_use]
    pub fn or_named_library(self, is_named: impl Fn(&str) -> bool) -> Self {
        let named = || file_engines().find(|engine| engine.library().is_some() && is_named(engine.name()));
        match self {
            Self::Auto => named().map_or(Self::Auto, Self::Named),
            Self::Named(_) => self,
        }
    }

    /// The engine of this choice, or of `default` if it is left open, or else the first one that needs no library.
    #[must_use]
    pub fn engine_or(self, default: Self) -> &'static dyn EngineFactory {
        let always_there = || file_engines().find(|engine| engine.library().is_none());
        match (self, default) {
            (Self::Named(engine), _) | (Self::Auto, Self::Named(engine)) => engine,
            (Self::Auto, Self::Auto) => always_there().unwrap_or(ENGINES[0]),
        }
    }
}

/// The one of `offered` that has this name; or why none has.
fn find(name: &str, offered: impl Iterator<Item = EngineChoice>) -> Result<EngineChoice, String> {
    let offered: Vec<EngineChoice> = offered.collect();
    offered.iter().copied().find(|choice| choice.name() == name).ok_or_else(|| {
        let known: Vec<String> = offered.iter().map(|choice| format!("`{}`", choice.name())).collect();
        format!("unknown variant `{name}`, expected one of {}", known.join(", "))
    })
}

impl FromStr for EngineChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        find(name, [Self::Auto].into_iter().chain(ENGINES.into_iter().map(Self::Named)))
    }
}

impl<'de> Deserialize<'de> for EngineChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for EngineChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> EngineChoice {
        name.parse().expect("a known name")
    }

    #[test]
    fn an_unknown_name_is_refused_with_all_that_are_known() {
        let error = "tract".parse::<EngineChoice>().expect_err("there is no such engine");
        assert_eq!(error, "unknown variant `tract`, expected one of `auto`, `rten`, `onnxruntime`, `synthetic`");
        let error = find("synthetic", EngineChoice::for_files()).expect_err("it runs no files");
        assert_eq!(error, "unknown variant `synthetic`, expected one of `auto`, `rten`, `onnxruntime`");
    }

    #[test]
    fn a_choice_that_is_left_open_falls_to_the_default_and_then_to_an_engine_that_is_always_there() {
        let engine = |choice: EngineChoice, default| choice.engine_or(default).name();
        assert_eq!(engine(named("onnxruntime"), named("rten")), "onnxruntime");
        assert_eq!(engine(EngineChoice::Auto, named("onnxruntime")), "onnxruntime");
        assert_eq!(engine(EngineChoice::Auto, EngineChoice::Auto), "rten");
    }

    #[test]
    fn a_library_that_is_named_decides_where_the_settings_leave_the_choice_open() {
        let settled = |choice: EngineChoice, library: &'static str| choice.or_named_library(|name| name == library);
        assert_eq!(settled(EngineChoice::Auto, "onnxruntime"), named("onnxruntime"));
        assert_eq!(settled(EngineChoice::Auto, "rten"), EngineChoice::Auto, "it has no library");
        assert_eq!(settled(named("rten"), "onnxruntime"), named("rten"));
    }
}
