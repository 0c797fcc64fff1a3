//! What opens a feed: its path and query, its first message, or both.

use axum::http::Uri;
use futures::Stream;

use super::{Target, query, request::Said};
use crate::{
    domain::Fault,
    frontend::messages::convert,
    native::Native,
    proto::v1,
    service::{Caller, Method, OpenRequest},
};

/// What is known about a feed before its first message.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Opening {
    /// Nothing: the first message opens it.
    Message,
    /// The model: the first message says the rest.
    Model(Target),
    /// Everything: the first message may be any.
    Whole(Box<v1::StreamConfig>),
}

impl Opening {
    /// From a request for this model, if its path names one.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) with the name of the parameter.
    pub(super) fn new(target: Option<Target>, uri: &Uri) -> Result<Self, Fault> {
        let config = query::stream_config(uri)?;
        match (target, config) {
            (None, None) => Ok(Self::Message),
            (None, Some(_)) => {
                Err(Fault::invalid("query", "parameters open a feed only where the path names the model; here, `open` does"))
            }
            (Some(target), None) => Ok(Self::Model(target)),
            (Some(Target { model, version }), Some(config)) => {
                Ok(Self::Whole(Box::new(v1::StreamConfig { model, version, ..config })))
            }
        }
    }

    /// What the stream is opened with.
    ///
    /// # Errors
    /// Those of [`Native::first`] and of the configuration.
    pub(super) async fn request(
        self,
        native: &Native,
        feed: &Method,
        caller: Caller,
        messages: &mut (impl Stream<Item = Result<Said, Fault>> + Unpin),
    ) -> Result<OpenRequest, Fault> {
        let config = match self {
            Self::Whole(config) => *config,
            Self::Message => native.first(feed, caller.ends_at, messages, Said::into_open).await?,
            Self::Model(target) => {
                let config = native.first(feed, caller.ends_at, messages, Said::into_open).await?;
                of_model(config, target).map_err(|fault| feed.refuse(fault))?
            }
        };
        convert::open_request(config, caller).map_err(|fault| feed.refuse(fault))
    }
}

/// The configuration of a stream of the model that the path names; it need not name the model again.
fn of_model(config: v1::StreamConfig, target: Target) -> Result<v1::StreamConfig, Fault> {
    let differs = |field: &'static str, said: &str, path: &str| {
        let message = format!("`open` names the {field} '{said}' and the path '{path}'; leave it out of `open`");
        (!said.is_empty() && said != path).then(|| Fault::invalid(field, message))
    };
    let Target { model, version } = target;
    match differs("model", &config.model, &model).or_else(|| differs("version", &config.version, &version)) {
        Some(fault) => Err(fault),
        None => Ok(v1::StreamConfig { model, version, ..config }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(version: &str) -> Target {
        Target { model: "m".to_owned(), version: version.to_owned() }
    }

    fn opening(target: Option<Target>, uri: &str) -> Result<Opening, Fault> {
        Opening::new(target, &uri.parse().expect("a path"))
    }

    #[test]
    fn a_path_and_a_query_open_a_feed_as_far_as_they_say() {
        assert_eq!(opening(None, "/tidemill/v1/feed"), Ok(Opening::Message));
        assert_eq!(opening(Some(target("")), "/x"), Ok(Opening::Model(target(""))));
        let Ok(Opening::Whole(config)) = opening(Some(target("2")), "/x?payload=PAYLOAD_KIND_PCM_S16LE&sampleRateHz=8000") else {
            panic!("it says everything")
        };
        assert_eq!((&*config.model, &*config.version, config.payload, config.sample_rate_hz), ("m", "2", 2, 8_000));
        assert_eq!(opening(None, "/x?payload=PAYLOAD_KIND_TENSORS").expect_err("no model").field(), Some("query"));
    }

    #[test]
    fn a_model_is_named_once_or_twice_the_same() {
        let config = |model: &str, version: &str| v1::StreamConfig {
            model: model.to_owned(),
            version: version.to_owned(),
            window_items: 3,
            ..v1::StreamConfig::default()
        };
        for same in [config("", ""), config("m", ""), config("m", "2")] {
            assert_eq!(of_model(same, target("2")), Ok(config("m", "2")));
        }
        assert_eq!(of_model(config("other", ""), target("")).expect_err("another").field(), Some("model"));
        assert_eq!(of_model(config("m", "1"), target("2")).expect_err("another").field(), Some("version"));
    }
}
