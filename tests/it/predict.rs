//! Predictions: one item, one result, and no trace.

use futures::future::join_all;
use tonic::{Code, Status};

use tidemill::{
    domain::Outcome,
    proto::v1::{PredictRequest, PredictResponse, StreamConfig, feed_request::Message, predict_request::Payload},
};

use crate::serving::{
    Account, COUNTER, Client, DOUBLER, Feed, bare_config, connect, fields, item, limits, patiently, serve, slow_doubler,
    speech_config, tensors_of, values,
};

async fn predict(client: &mut Client, model: &str, payload: Option<Payload>) -> Result<PredictResponse, Status> {
    let request = PredictRequest { model: model.to_owned(), payload, ..PredictRequest::default() };
    patiently(client.predict(request)).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_prediction_starts_from_the_zero_state() {
    let server = serve(bare_config(), &[("counter", COUNTER)]).await;
    let account = Account::of(&server, "counter");
    let client = connect(&server).await;
    let predictions = (0..200_u8).map(|number| {
        let mut client = client.clone();
        async move {
            let payload = Some(Payload::Item(item(&number.to_string(), &[f32::from(number)])));
            let response = predict(&mut client, "counter", payload).await.expect("a result");
            assert_eq!(values(&response.outputs.expect("outputs").tensors), [2.0 * f32::from(number)]);
            assert_eq!((response.model.as_str(), response.version.as_str(), response.id), ("counter", "1", number.to_string()));
        }
    });
    join_all(predictions).await;
    assert_eq!(account.settled().await.outcome(Outcome::Ok), 200);
}

#[tokio::test]
async fn errors_are_the_status_of_the_call() {
    let server = serve(speech_config(), &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    let good = || Some(Payload::Item(item("", &[1.0; 4])));
    let pcm = |bytes: usize| Some(Payload::PcmS16le(vec![0; bytes].into()));
    let cases = [
        ("", good(), Code::InvalidArgument, "model"),
        ("nobody", good(), Code::NotFound, "model"),
        ("m", None, Code::InvalidArgument, "payload"),
        ("m", Some(Payload::Item(item("", &[1.0; 5]))), Code::InvalidArgument, "inputs[0].data"),
        ("m", pcm(8), Code::InvalidArgument, "payload"),
        ("silero-vad", pcm(0), Code::InvalidArgument, "pcm_s16le"),
        ("silero-vad", pcm(1_025), Code::InvalidArgument, "pcm_s16le"),
    ];
    for (model, payload, code, field) in cases {
        let error = predict(&mut client, model, payload).await.expect_err("it must be refused");
        assert_eq!((error.code(), fields(&error)), (code, vec![field.to_owned()]), "{error}");
    }
    let error = predict(&mut client, "m", Some(Payload::Item(item("", &[-1.0; 4])))).await.expect_err("the call fails");
    assert_eq!(error.code(), Code::Internal);
    assert!(predict(&mut client, "m", good()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses_predictions_by_the_limits_name_and_says_when_to_come_back() {
    let mut config = bare_config();
    config.scheduler.max_queued_items = 2;
    let server = serve(config, &[("slow", &slow_doubler(50_000))]).await;
    let account = Account::of(&server, "slow");
    let mut client = connect(&server).await;
    let (feed, _) = Feed::open(&mut client, StreamConfig { window_items: 1_000, ..tensors_of("slow") }).await;
    let sender = feed.sender();
    let filling =
        tokio::spawn(
            async move { while sender.send(crate::serving::message(Message::Item(item("", &[1.0; 4])))).await.is_ok() {} },
        );
    // The feed keeps the queue full from its second item on; a prediction that comes earlier is served.
    let refused = loop {
        if let Err(error) = predict(&mut client.clone(), "slow", Some(Payload::Item(item("", &[1.0; 4])))).await {
            break error;
        }
    };
    assert_eq!((refused.code(), limits(&refused)), (Code::ResourceExhausted, vec!["scheduler.max_queued_items".to_owned()]));
    assert!(refused.metadata().get("grpc-retry-pushback-ms").is_some());
    filling.abort();
    drop(feed);
    let ledger = account.settled().await;
    assert_eq!(ledger.outcome(Outcome::Refused), 1);
}
