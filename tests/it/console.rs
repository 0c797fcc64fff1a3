//! The console as the HTTP port serves it, and the counters that it shows.

use std::net::Ipv4Addr;

use tidemill::{
    config::{Config, Switch},
    proto::v1::{CallCount, GetStatusRequest, GetStatusResponse, model_service_client::ModelServiceClient},
};
use tonic::{Code, Status};

use crate::{
    http_client::{Http, Reply, infer_json},
    keys::{ALL, key, known, with_key},
    serving::{COUNTER, DOUBLER, bare_config, patiently, serve},
};

const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");

async fn front(config: Config, headers: &[(&str, &str)]) -> Reply {
    let server = serve(config, &[("m", DOUBLER)]).await;
    Http::connect(&server).await.send("GET", "/", headers, "").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browsers_get_the_page_and_programs_a_list_of_what_there_is() {
    let page = front(bare_config(), &[BROWSER]).await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(page.header("etag").starts_with("W/\"") && page.header("vary").contains("accept"));
    let (status, list) = front(bare_config(), &[]).await.json();
    assert_eq!((status, list["open_inference"].as_str()), (200, Some("/v2")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_files_are_compressed_and_known_again() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut http = Http::connect(&server).await;
    let sent = http.send("GET", "/console/console.js", &[("accept-encoding", "gzip")], "").await;
    assert_eq!((sent.status.as_u16(), sent.header("content-encoding")), (200, "gzip"));
    let again = http.send("GET", "/console/console.js", &[("if-none-match", sent.header("etag"))], "").await;
    assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
    assert_eq!(http.send("HEAD", "/console/console.css", &[], "").await.status.as_u16(), 200);
    assert_eq!(http.send("POST", "/console/console.css", &[], "").await.status.as_u16(), 405);
    assert_eq!(http.get("/console/nothing").await.status.as_u16(), 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_for_everybody_but_shows_nothing_without_a_key() {
    let (config, _folder) = known(&[("one", 1, ALL)]);
    let server = serve(config, &[("m", DOUBLER)]).await;
    let mut http = Http::connect(&server).await;
    for path in ["/console/console.js", "/console/sample.wav"] {
        assert_eq!(http.get(path).await.status.as_u16(), 200, "{path}");
    }
    assert_eq!(http.send("GET", "/", &[BROWSER], "").await.status.as_u16(), 200);
    assert_eq!(http.get("/v2").await.status.as_u16(), 401);
    // A WebSocket's only way to show a key.
    for prefix in ["tidemill.v1.key.", "openai-insecure-api-key."] {
        let offered = format!("tidemill.v1.json, {prefix}{}", key(1));
        // A refusal ends its connection.
        let mut http = Http::connect(&server).await;
        assert_eq!(http.send("GET", "/v2", &[("sec-websocket-protocol", &offered)], "").await.status.as_u16(), 200);
        let wrong = format!("{prefix}{}", key(2));
        let refused = http.send("GET", "/v2", &[("sec-websocket-protocol", &wrong)], "").await;
        assert_eq!(refused.status.as_u16(), 401);
        assert!(!String::from_utf8_lossy(&refused.body).contains(&wrong), "no secret is quoted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_it_is_off_the_error_says_why() {
    let mut off = bare_config();
    off.http.console = Switch::Off;
    let mut open = bare_config();
    open.server.http_addr.set_ip(Ipv4Addr::UNSPECIFIED.into());
    open.security.allow_anonymous = Switch::On;
    for config in [off, open.clone()] {
        let server = serve(config, &[("m", DOUBLER)]).await;
        let mut http = Http::connect(&server).await;
        for path in ["/", "/console/console.js", "/console/"] {
            let (status, reason) = http.send("GET", path, &[BROWSER], "").await.error();
            assert!(status == 404 && reason.contains("http.console"), "{path}: {status} {reason}");
        }
        assert_eq!(http.get("/").await.status.as_u16(), 200, "programs still get the list");
    }
    open.http.console = Switch::On;
    assert_eq!(front(open, &[BROWSER]).await.status.as_u16(), 200);
}

async fn status_of(address: std::net::SocketAddr, caller: Option<u8>) -> Result<GetStatusResponse, Status> {
    let mut client = ModelServiceClient::connect(format!("http://{address}")).await.expect("the server accepts");
    let request = GetStatusRequest {};
    let request = caller.map_or_else(|| tonic::Request::new(request), |caller| with_key(request, caller));
    patiently(client.get_status(request)).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_counts_items_and_calls_by_model() {
    let server = serve(bare_config(), &[("m", DOUBLER), ("counter", COUNTER)]).await;
    let mut http = Http::connect(&server).await;
    for _ in 0..3 {
        let (status, json) = http.send("POST", "/v2/models/m/infer", &[], infer_json(&[2, 4], &[1.0; 8])).await.json();
        assert_eq!(status, 200, "{json}");
    }
    let told = status_of(server.grpc_addr(), None).await.expect("an answer");
    assert_eq!(told.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(), ["counter", "m"]);
    let model = &told.models[1];
    let items = model.items.expect("counts");
    assert_eq!((items.received, items.ok, items.failed, model.items_queued, model.items_running), (6, 6, 0, 0, 0));
    let counted = |count: &CallCount| u64::from(count.batch_size) * count.calls;
    assert_eq!(model.calls.iter().map(counted).sum::<u64>(), 6);
    assert!(model.calls.iter().all(|count| count.duration.is_some()) && model.waited.is_some() && model.batch_cap > 0);
    assert!(told.uptime.is_some() && told.lanes >= 1 && told.lanes_busy <= told.lanes && !told.draining);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_is_for_those_who_may_read_about_models_and_shows_no_others() {
    let some = "scopes = ['models:read']\nmodels = ['counter']";
    let (config, _folder) = known(&[("some", 1, some), ("none", 2, "scopes = ['infer']")]);
    let server = serve(config, &[("m", DOUBLER), ("counter", COUNTER)]).await;
    let told = status_of(server.grpc_addr(), Some(1)).await.expect("an answer");
    assert_eq!(told.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>(), ["counter"]);
    assert_eq!(status_of(server.grpc_addr(), Some(2)).await.expect_err("no scope").code(), Code::PermissionDenied);
    assert_eq!(status_of(server.grpc_addr(), None).await.expect_err("no key").code(), Code::Unauthenticated);
}
