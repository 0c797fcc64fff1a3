//! Scans: one request, a result for each of its items.

use tonic::Code;

use tidemill::{
    domain::Outcome,
    proto::v1::{
        Item, ItemList, ItemResult, PayloadKind, ScanRequest, StreamConfig, Summary, scan_request::Payload, scan_response::Event,
    },
};

use crate::serving::{
    Account, COUNTER, Client, DOUBLER, bare_config, connect, fields, item, metric, outcome, patiently, serve, slow_doubler,
    speech_config, tensors_of,
};

fn list(items: Vec<Item>) -> Option<Payload> {
    Some(Payload::Items(ItemList { items }))
}

/// The results and summary of a scan; its events must come in the promised order.
async fn scan(client: &mut Client, config: StreamConfig, items: Vec<Item>) -> (Vec<ItemResult>, Summary) {
    let request = ScanRequest { config: Some(config), payload: list(items) };
    let mut responses = patiently(client.scan(request)).await.expect("the stream opens").into_inner();
    let mut results = Vec::new();
    let mut opened = false;
    while let Some(response) = patiently(responses.message()).await.expect("no fault") {
        match response.event.expect("an event") {
            Event::Opened(_) => {
                assert!(results.is_empty(), "`opened` is the first event");
                opened = true;
            }
            Event::Result(result) => {
                assert!(opened);
                results.push(result);
            }
            Event::Completed(summary) => {
                assert!(patiently(responses.message()).await.expect("no fault").is_none(), "`completed` is the last event");
                return (results, summary);
            }
            event => panic!("{event:?} from a model without segments"),
        }
    }
    panic!("the stream ended without `completed`");
}

#[tokio::test]
async fn a_bad_item_is_answered_in_its_place_and_the_scan_goes_on() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let account = Account::of(&server, "m");
    let mut client = connect(&server).await;
    let items = vec![item("good", &[1.0; 4]), item("short", &[1.0; 3]), item("fails", &[-1.0; 4]), item("good", &[2.0; 4])];
    let (results, summary) = scan(&mut client, tensors_of("m"), items).await;
    let outcomes: Vec<_> = results.iter().map(outcome).collect();
    assert_eq!(outcomes, [Ok(vec![2.0; 4]), Err(Code::InvalidArgument), Err(Code::Internal), Ok(vec![4.0; 4])]);
    assert_eq!((summary.items, summary.ok, summary.errors), (4, 2, 2));
    let ledger = account.settled().await;
    let counts = [Outcome::Ok, Outcome::Refused, Outcome::Failed].map(|outcome| ledger.outcome(outcome));
    assert_eq!((ledger.received(), counts), (4, [2, 1, 1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_items_of_a_stateful_scan_are_one_stream_and_two_scans_are_two() {
    let server = serve(bare_config(), &[("counter", COUNTER)]).await;
    let client = connect(&server).await;
    let scans = (1..=16_u8).map(|step| {
        let mut client = client.clone();
        async move {
            let step = f32::from(step);
            let (results, _) = scan(&mut client, tensors_of("counter"), vec![item("", &[step]); 50]).await;
            for (index, result) in results.iter().enumerate() {
                assert_eq!(outcome(result), Ok(vec![step * (index as f32 + 2.0)]), "item {index} of the scan in steps of {step}");
            }
        }
    });
    futures::future::join_all(scans).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_queues_only_as_many_items_as_its_window() {
    let server = serve(bare_config(), &[("slow", &slow_doubler(2_000))]).await;
    let account = Account::of(&server, "slow");
    let mut client = connect(&server).await;
    let config = StreamConfig { window_items: 2, ..tensors_of("slow") };
    let request = ScanRequest { config: Some(config), payload: list(vec![item("", &[1.0; 4]); 60]) };
    let mut responses = patiently(client.scan(request)).await.expect("the stream opens").into_inner();
    while let Some(response) = patiently(responses.message()).await.expect("no fault") {
        let ledger = account.ledger();
        assert!(ledger.open() <= 2, "{ledger:?}");
        if let Some(Event::Completed(summary)) = response.event {
            assert_eq!(summary.ok, 60);
        }
    }
    assert!(metric(&server.metrics(), "tidemill_stream_stalls_total", "scan") >= 1.0);
}

#[tokio::test]
async fn a_scan_of_nothing_completes_and_one_without_a_payload_is_refused() {
    let server = serve(speech_config(), &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    let (results, summary) = scan(&mut client, tensors_of("m"), Vec::new()).await;
    assert_eq!((results.len(), summary.items), (0, 0));
    let empty = ScanRequest { config: Some(tensors_of("m")), payload: None };
    let error = patiently(client.scan(empty)).await.expect_err("no payload");
    assert_eq!((error.code(), fields(&error)), (Code::InvalidArgument, vec!["payload".to_owned()]));
    let config = StreamConfig { payload: PayloadKind::Tensors.into(), ..tensors_of("silero-vad") };
    let other = ScanRequest { config: Some(config), payload: Some(Payload::PcmS16le(vec![0; 1_024].into())) };
    let error = patiently(client.scan(other)).await.expect_err("another kind of payload");
    assert_eq!((error.code(), fields(&error)), (Code::InvalidArgument, vec!["config.payload".to_owned()]));
    let raw = ScanRequest {
        config: Some(StreamConfig { payload: 0, ..tensors_of("m") }),
        payload: Some(Payload::PcmS16le(vec![0; 8].into())),
    };
    let error = patiently(client.scan(raw)).await.expect_err("a model without framing");
    assert_eq!((error.code(), fields(&error)), (Code::InvalidArgument, vec!["payload".to_owned()]));
}
