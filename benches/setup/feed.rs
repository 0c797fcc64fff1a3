//! A folder with a model that costs nothing, and a client's end of a `Feed` to it.

use std::{fs, path::Path};

use tempfile::TempDir;
use tidemill::proto::v1::{
    FeedRequest, FeedResponse, StreamConfig, feed_request::Message, feed_response::Event,
    inference_service_client::InferenceServiceClient, item_result::Outcome,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

const MANIFEST: &str = r#"
engine = "synthetic"

[[inputs]]
name = "x"
datatype = "FP32"
dims = ["batch", 576]

[[outputs]]
name = "y"
datatype = "FP32"
dims = ["batch", 576]

[synthetic]
kind = "identity"
"#;

/// Requests that a client holds for its connection.
const OUTBOUND_MAX: usize = 64;

/// The folder, with a single model, `identity`, which takes batches of up to `batch_max` items.
pub(crate) fn models(batch_max: usize) -> TempDir {
    let models = tempfile::tempdir().expect("a writable folder");
    let folder: &Path = &models.path().join("identity");
    fs::create_dir(folder).expect("an empty folder");
    fs::write(folder.join("model.toml"), format!("max_batch = {batch_max}\n{MANIFEST}")).expect("a writable folder");
    models
}

/// An open `Feed`.
pub(crate) struct Feed {
    outbound: mpsc::Sender<FeedRequest>,
    inbound: Streaming<FeedResponse>,
}

impl Feed {
    pub(crate) async fn open(channel: Channel) -> Self {
        let (outbound, messages) = mpsc::channel(OUTBOUND_MAX);
        let open = StreamConfig { model: "identity".to_owned(), ..StreamConfig::default() };
        outbound.send(FeedRequest { message: Some(Message::Open(open)) }).await.expect("room for one");
        let call = InferenceServiceClient::new(channel).feed(ReceiverStream::new(messages)).await;
        let mut feed = Self { outbound, inbound: call.expect("the call begins").into_inner() };
        assert!(matches!(feed.event().await, Event::Opened(_)));
        feed
    }

    pub(crate) async fn send(&self, request: FeedRequest) {
        self.outbound.send(request).await.expect("the stream goes on");
    }

    /// The next answer, which must have outputs.
    pub(crate) async fn result(&mut self) {
        let Event::Result(result) = self.event().await else { unreachable!("a feed of items gives results") };
        assert!(matches!(result.outcome, Some(Outcome::Outputs(_))));
    }

    async fn event(&mut self) -> Event {
        let response = self.inbound.message().await.expect("the stream goes on").expect("the stream goes on");
        response.event.expect("an event")
    }
}
