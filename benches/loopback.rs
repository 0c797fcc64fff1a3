//! End to end over real loopback sockets: a client in this process, the whole server, and a model that costs nothing.

#[path = "setup/feed.rs"]
mod feed;

use std::{net::Ipv4Addr, time::Duration};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tidemill::{
    app::Server,
    config::Config,
    proto::v1::{self, feed_request},
};
use tokio::runtime::Runtime;
use tonic::transport::Endpoint;

use feed::Feed;

/// FP32 values in an item.
const VALUES: usize = 576;
/// Items in a batch: as many as are in flight.
const BATCH_MAX: usize = 64;

async fn start(models: &std::path::Path) -> Server {
    let mut config = Config::default();
    config.server.grpc_addr = (Ipv4Addr::LOCALHOST, 0).into();
    config.server.http_addr = (Ipv4Addr::LOCALHOST, 0).into();
    config.server.admin_addr = (Ipv4Addr::LOCALHOST, 0).into();
    config.models.dir = Some(models.to_owned());
    config.models.embedded = false;
    config.models.example = false;
    Server::start(config).await.expect("free ports and a sound model")
}

/// Sends that many items at once and waits for all answers.
async fn round_trip(feed: &mut Feed, request: &v1::FeedRequest, items: usize) {
    for _ in 0..items {
        feed.send(request.clone()).await;
    }
    for _ in 0..items {
        feed.result().await;
    }
}

fn loopback(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("threads");
    let models = feed::models(BATCH_MAX);
    let server = runtime.block_on(start(models.path()));
    let mut feed = runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", server.grpc_addr())).expect("an address");
        Feed::open(endpoint.connect().await.expect("the server listens")).await
    });
    let tensor = v1::Tensor { data: vec![0; VALUES * 4].into(), ..v1::Tensor::default() };
    let item = v1::Item { inputs: vec![tensor], ..v1::Item::default() };
    let request = v1::FeedRequest { message: Some(feed_request::Message::Item(item)) };
    let mut group = criterion.benchmark_group("loopback");
    for items in [1_usize, 16, 64] {
        group.throughput(Throughput::Elements(items as u64));
        group.bench_function(BenchmarkId::new("feed_items_in_flight", items), |bencher| {
            bencher.iter(|| runtime.block_on(round_trip(&mut feed, &request, items)));
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
