//! End to end over real loopback sockets: a client of this process, the whole server, and a model of no cost.

use std::{net::Ipv4Addr, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidemill::{
    app::Server,
    config::Config,
    proto::v1::{self, feed_request, feed_response, inference_service_client::InferenceServiceClient},
};
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// FP32 values in an item.
const VALUES: usize = 576;

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

/// An open `Feed`.
struct Feed {
    outbound: mpsc::Sender<v1::FeedRequest>,
    inbound: Streaming<v1::FeedResponse>,
    request: v1::FeedRequest,
}

impl Feed {
    async fn open(server: &Server) -> Self {
        let mut client =
            InferenceServiceClient::connect(format!("http://{}", server.grpc_addr())).await.expect("the server listens");
        let (outbound, messages) = mpsc::channel(64);
        let open = v1::StreamConfig { model: "identity".to_owned(), ..v1::StreamConfig::default() };
        let open = v1::FeedRequest { message: Some(feed_request::Message::Open(open)) };
        outbound.send(open).await.expect("room for one");
        let inbound = client.feed(ReceiverStream::new(messages)).await.expect("the call begins").into_inner();
        let tensor = v1::Tensor { data: vec![0; VALUES * 4].into(), ..v1::Tensor::default() };
        let item = v1::Item { inputs: vec![tensor], ..v1::Item::default() };
        let mut feed = Self { outbound, inbound, request: v1::FeedRequest { message: Some(feed_request::Message::Item(item)) } };
        assert!(matches!(feed.event().await, feed_response::Event::Opened(_)));
        feed
    }

    async fn event(&mut self) -> feed_response::Event {
        let response = self.inbound.message().await.expect("the stream goes on").expect("the stream goes on");
        response.event.expect("an event")
    }

    /// Sends that many items at once and waits for all answers.
    async fn round_trip(&mut self, items: usize) {
        for _ in 0..items {
            self.outbound.send(self.request.clone()).await.expect("the stream goes on");
        }
        for _ in 0..items {
            assert!(matches!(self.event().await, feed_response::Event::Result(_)));
        }
    }
}

async fn start(models: &std::path::Path) -> Server {
    let folder = models.join("identity");
    std::fs::create_dir(&folder).expect("an empty folder");
    std::fs::write(folder.join("model.toml"), MANIFEST).expect("a writable folder");
    let mut config = Config::default();
    config.server.grpc_addr = (Ipv4Addr::LOCALHOST, 0).into();
    config.server.http_addr = (Ipv4Addr::LOCALHOST, 0).into();
    config.server.admin_addr = (Ipv4Addr::LOCALHOST, 0).into();
    config.models.dir = Some(models.to_owned());
    config.models.embedded = false;
    config.models.example = false;
    Server::start(config).await.expect("free ports and a sound model")
}

fn loopback(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("threads");
    let models = tempfile::tempdir().expect("a writable folder");
    let server = runtime.block_on(start(models.path()));
    let mut feed = runtime.block_on(Feed::open(&server));
    let mut group = criterion.benchmark_group("loopback");
    for items in [1_usize, 16, 64] {
        group.throughput(Throughput::Elements(items as u64));
        group.bench_function(BenchmarkId::new("feed_items_in_flight", items), |bencher| {
            bencher.iter(|| runtime.block_on(feed.round_trip(items)));
        });
    }
    group.finish();
    drop(feed);
    runtime.block_on(server.drain());
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2)).sample_size(20);
    targets = loopback
}
criterion_main!(benches);
