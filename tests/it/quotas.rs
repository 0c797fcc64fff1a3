//! Quotas of keys and tenants: what reaches one is refused with its name and when to come back, or is slowed where it can wait.

use http::StatusCode;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use tidemill::{
    app::Server,
    clock,
    proto::v1::{ItemList, ScanRequest, scan_request::Payload, scan_response::Event},
};

use crate::{
    http_client::{Http, Reply, infer_json},
    infer::{infer_client, request as infer_request},
    keys::{answers, feed, key, known, listed, replace, with_key},
    serving::{DOUBLER, connect, item, limits, metric, outcome, patiently, serve, tensors_of},
};

const INFER: &str = "/v2/models/m/infer";
const SCOPES: &str = "scopes = ['infer', 'models:read']";

/// More calls than any quota here lets through in the time that they take.
const CALLS_MAX: usize = 10_000;

fn with_quotas(quotas: &str) -> String {
    format!("{SCOPES}\n{quotas}")
}

/// A call of one item of 16 bytes, on a connection of its own.
async fn infer(server: &Server, byte: u8) -> Result<(), Status> {
    let request = with_key(infer_request("m", "x", &[1, 4], &[1.0; 4]), byte);
    patiently(infer_client(server).await.model_infer(request)).await.map(drop)
}

/// The first refusal, however fast the machine is.
async fn refused(server: &Server, byte: u8) -> Status {
    for _ in 0..CALLS_MAX {
        if let Err(status) = infer(server, byte).await {
            return status;
        }
    }
    panic!("no call was refused");
}

async fn refused_over_http(server: &Server, byte: u8) -> Reply {
    let mut http = Http::connect(server).await;
    for _ in 0..CALLS_MAX {
        let reply = http.send("POST", INFER, &[("x-api-key", &key(byte))], infer_json(&[4], &[1.0; 4])).await;
        if reply.status != StatusCode::OK {
            return reply;
        }
    }
    panic!("no request was refused");
}

/// Waits until a call passes.
async fn until_let_in(server: &Server, byte: u8) {
    let passes = async {
        while infer(server, byte).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    patiently(passes).await;
}

/// The refusal names the quota, whose it is, and when to come back.
fn assert_names(status: &Status, quota: &str, owner: &str) {
    assert_eq!((status.code(), limits(status)), (Code::ResourceExhausted, vec![quota.to_owned()]), "{status:?}");
    assert!(status.message().contains(owner) && status.message().contains(quota), "{status:?}");
    let pushback = status.metadata().get("grpc-retry-pushback-ms").expect("a pushback").to_str().expect("text");
    assert!(pushback.parse::<u64>().expect("a number") > 0, "{pushback}");
    assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
}

fn assert_names_over_http(reply: &Reply, quota: &str, owner: &str) {
    let (status, message) = reply.error();
    assert!(status == 429 && message.contains(quota) && message.contains(owner), "{status}: {message}");
    assert!(reply.header("retry-after").parse::<u64>().expect("seconds") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rate_refuses_with_its_name_and_when_to_come_back() {
    let (items, bytes) = (with_quotas("quotas.items_per_s = 1"), with_quotas("quotas.bytes_per_s = 16"));
    let (config, _folder) = known(&[("a", 1, &items), ("b", 2, &bytes), ("free", 3, SCOPES)]);
    let server = serve(config, &[("m", DOUBLER)]).await;
    for (byte, quota, owner) in [(1, "quota.items_per_s", "key 'a'"), (2, "quota.bytes_per_s", "key 'b'")] {
        assert_names(&refused(&server, byte).await, quota, owner);
        assert_names_over_http(&refused_over_http(&server, byte).await, quota, owner);
    }
    for _ in 0..20 {
        infer(&server, 3).await.expect("it has no quota");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_connections_are_counted_and_given_back() {
    let (streams, connections) = (with_quotas("quotas.streams = 1"), with_quotas("quotas.connections = 1"));
    let (config, _folder) = known(&[("a", 1, &streams), ("b", 2, &connections)]);
    let server = serve(config, &[("m", DOUBLER)]).await;
    let open = feed(&server, 1).await;
    assert_names(&refused(&server, 1).await, "quota.streams", "key 'a'");
    assert_names_over_http(&refused_over_http(&server, 1).await, "quota.streams", "key 'a'");
    drop(open);
    until_let_in(&server, 1).await;

    let mut first = infer_client(&server).await;
    for _ in 0..2 {
        let request = with_key(infer_request("m", "x", &[1, 4], &[1.0; 4]), 2);
        patiently(first.model_infer(request)).await.expect("its connection is counted once");
    }
    assert_names(&refused(&server, 2).await, "quota.connections", "key 'b'");
    assert_names_over_http(&refused_over_http(&server, 2).await, "quota.connections", "key 'b'");
    drop(first);
    until_let_in(&server, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_priority_above_the_highest_is_denied() {
    let (config, _folder) = known(&[("a", 1, &with_quotas("quotas.priority_max = 'low'"))]);
    let server = serve(config, &[("m", DOUBLER)]).await;
    let status = infer(&server, 1).await.expect_err("it asks for NORMAL");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    assert!(status.message().contains("key 'a' may not ask for priority NORMAL (quota.priority_max); ask for LOW"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_change_in_place_and_what_is_open_goes_on() {
    let (config, folder) = known(&[("a", 1, &with_quotas("quotas.streams = 1"))]);
    let server = serve(config, &[("m", DOUBLER)]).await;
    let (sender, mut responses) = feed(&server, 1).await;
    assert_names(&refused(&server, 1).await, "quota.streams", "key 'a'");
    replace(&folder, &listed(&[("a", 1, &with_quotas("quotas.streams = 2"))]));
    until_let_in(&server, 1).await;
    assert!(answers(&sender, &mut responses).await);
    replace(&folder, &listed(&[("a", 1, &with_quotas("quotas.streams = 1"))]));
    assert_names(&refused(&server, 1).await, "quota.streams", "key 'a'");
    assert!(answers(&sender, &mut responses).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_one_tenant_share_its_quota_and_it_is_counted_by_name() {
    let of_acme = format!("{SCOPES}\ntenant = 'acme'");
    let and_its_quota = format!("{of_acme}\n[[tenant]]\nname = 'acme'\nquotas.streams = 1");
    let (mut config, _folder) = known(&[("a", 1, &of_acme), ("b", 2, &and_its_quota)]);
    config.metrics.tenants = vec!["acme".to_owned()];
    let server = serve(config, &[("m", DOUBLER)]).await;
    let (sender, mut responses) = feed(&server, 1).await;
    assert!(answers(&sender, &mut responses).await);
    for byte in [1, 2] {
        assert_names(&refused(&server, byte).await, "quota.streams", "tenant 'acme'");
    }
    assert_names_over_http(&refused_over_http(&server, 2).await, "quota.streams", "tenant 'acme'");
    let text = server.metrics();
    let of_tenant = |name| metric(&text, name, "tenant=\"acme\"");
    assert_eq!((of_tenant("tidemill_tenant_items_total"), of_tenant("tidemill_tenant_streams_open")), (1.0, 1.0));
    assert_eq!(metric(&text, "tidemill_tenant_refused_total", "quota=\"streams\""), 3.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_over_its_rate_is_slowed_and_complete() {
    const RATE: usize = 50;
    const ITEMS: usize = 100;
    let (config, _folder) = known(&[("a", 1, &with_quotas(&format!("quotas.items_per_s = {RATE}")))]);
    let server = serve(config, &[("m", DOUBLER)]).await;
    let begun = clock::now();
    let payload = Some(Payload::Items(ItemList { items: vec![item("", &[1.0; 4]); ITEMS] }));
    let request = with_key(ScanRequest { config: Some(tensors_of("m")), payload }, 1);
    let mut responses = patiently(connect(&server).await.scan(request)).await.expect("the stream opens").into_inner();
    let (mut results, mut summary) = (0, None);
    while let Some(response) = patiently(responses.message()).await.expect("no fault") {
        match response.event.expect("an event") {
            Event::Result(result) => {
                assert_eq!(outcome(&result), Ok(vec![2.0; 4]));
                results += 1;
            }
            Event::Completed(found) => summary = Some(found),
            _ => {}
        }
    }
    assert_eq!((results, summary.map(|summary| (summary.ok, summary.errors))), (ITEMS, Some((ITEMS as u64, 0))));
    // A second's worth passes at once, and one item more runs as debt.
    let least = (ITEMS - RATE - 2) as f64 / RATE as f64;
    assert!(clock::now().since(begun).as_secs_f64() >= least, "it was not slowed");
    // What waits for its one answer is refused while the scan's debt lasts, or passes once it does not.
    assert_names(&refused(&server, 1).await, "quota.items_per_s", "key 'a'");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_caller_names_only_the_tenants_that_it_may_act_for() {
    let (mut config, _folder) = known(&[("a", 1, &format!("{SCOPES}\nacts_for = ['web-*']"))]);
    config.session.tenant_metadata = "x-tenant".to_owned();
    let server = serve(config, &[("m", DOUBLER)]).await;
    for (tenant, code) in [("a", Code::Ok), ("web-1", Code::Ok), ("umbrella", Code::PermissionDenied)] {
        let mut request = with_key(infer_request("m", "x", &[1, 4], &[1.0; 4]), 1);
        request.metadata_mut().insert("x-tenant", tenant.parse().expect("ASCII"));
        let answered = patiently(infer_client(&server).await.model_infer(request)).await;
        let (found, message) =
            answered.map_or_else(|status| (status.code(), status.message().to_owned()), |_| (Code::Ok, String::new()));
        assert_eq!(found, code, "{tenant}: {message}");
        assert_eq!(message.contains("may not call for tenant 'umbrella'"), code != Code::Ok, "{message}");
        let headers = [("x-api-key", key(1)), ("x-tenant", tenant.to_owned())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let reply = Http::connect(&server).await.send("POST", INFER, &headers, infer_json(&[4], &[1.0; 4])).await;
        assert_eq!(reply.status.as_u16(), if code == Code::Ok { 200 } else { 403 }, "{tenant}");
    }
}
