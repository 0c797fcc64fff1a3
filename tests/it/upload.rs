//! Uploads: many parts, one answer.

use tokio::sync::mpsc;
use tokio_stream::{iter, wrappers::ReceiverStream};
use tonic::{Code, Status};

use tidemill::{
    codec::PayloadDigest as Digest,
    domain::Outcome,
    proto::v1::{PayloadDigest, UploadConfig, UploadRequest, UploadResponse, upload_request::Part},
};

use crate::serving::{
    Account, Client, DOUBLER, bare_config, connect, fields, first_values, item, limits, outcome, patiently, serve, slow_doubler,
    tensors_of, until,
};

fn open(model: &str) -> UploadConfig {
    UploadConfig { stream: Some(tensors_of(model)), include_results: true, ..UploadConfig::default() }
}

fn part(part: Part) -> UploadRequest {
    UploadRequest { part: Some(part) }
}

async fn upload(client: &mut Client, config: UploadConfig, parts: Vec<Part>) -> Result<UploadResponse, Status> {
    let parts: Vec<_> = std::iter::once(Part::Open(config)).chain(parts).map(part).collect();
    patiently(client.upload(iter(parts))).await.map(tonic::Response::into_inner)
}

fn numbers(count: u8) -> Vec<Part> {
    (1..=count).map(|number| Part::Item(item(&number.to_string(), &[f32::from(number); 4]))).collect()
}

#[tokio::test]
async fn model_calls_run_while_parts_are_still_to_come() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let account = Account::of(&server, "m");
    let mut client = connect(&server).await;
    let (sender, parts) = mpsc::channel(4);
    let uploading = tokio::spawn(async move { patiently(client.upload(ReceiverStream::new(parts))).await });
    sender.send(part(Part::Open(open("m")))).await.expect("it is read");
    for (index, number) in numbers(5).into_iter().enumerate() {
        sender.send(part(number)).await.expect("it is read");
        until("the item is answered before the next is sent", || account.ledger().outcome(Outcome::Ok) == index as u64 + 1).await;
    }
    drop(sender);
    let response = uploading.await.expect("no panic").expect("an answer").into_inner();
    assert_eq!(first_values(&response.results), [2.0, 4.0, 6.0, 8.0, 10.0]);
}

#[tokio::test]
async fn the_answer_says_what_arrived() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    let mut digest = Digest::new(true);
    for number in 1..=3_u8 {
        digest.update(&f32::from(number).to_le_bytes().repeat(4));
    }
    let sent = digest.finish();
    let known = PayloadDigest {
        total_bytes: Some(48),
        crc32c: Some(sent.crc32c),
        sha256: sent.sha256.expect("it was asked for").to_vec().into(),
    };
    let config = UploadConfig { expect: Some(known.clone()), ..open("m") };
    let response = upload(&mut client, config, numbers(3)).await.expect("an answer");
    assert_eq!(response.received, Some(known.clone()));
    let mut parts = numbers(3);
    parts.push(Part::Finish(known));
    let response = upload(&mut client, open("m"), parts).await.expect("an answer");
    assert_eq!(response.summary.expect("a summary").payload_bytes, 48);
}

#[tokio::test]
async fn what_differs_from_the_declaration_is_data_loss_and_what_breaks_the_order_is_invalid() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let account = Account::of(&server, "m");
    let mut client = connect(&server).await;
    let digest = |digest: PayloadDigest| Some(Part::Finish(digest));
    let cases = [
        (digest(PayloadDigest { total_bytes: Some(33), ..PayloadDigest::default() }), Code::DataLoss),
        (digest(PayloadDigest { total_bytes: Some(31), ..PayloadDigest::default() }), Code::DataLoss),
        (digest(PayloadDigest { total_bytes: Some(u64::MAX), ..PayloadDigest::default() }), Code::DataLoss),
        (digest(PayloadDigest { crc32c: Some(7), ..PayloadDigest::default() }), Code::DataLoss),
        (digest(PayloadDigest { sha256: vec![0; 32].into(), ..PayloadDigest::default() }), Code::DataLoss),
        (digest(PayloadDigest { sha256: vec![0; 31].into(), ..PayloadDigest::default() }), Code::InvalidArgument),
        (Some(Part::Open(open("m"))), Code::InvalidArgument),
        (Some(Part::Chunk(vec![0; 8].into())), Code::InvalidArgument),
        (None, Code::InvalidArgument),
    ];
    for (last, code) in cases {
        let mut messages = vec![part(Part::Open(open("m")))];
        messages.extend(numbers(2).into_iter().map(part));
        messages.push(UploadRequest { part: last.clone() });
        let error = patiently(client.upload(iter(messages))).await.expect_err("it must be refused");
        assert_eq!(error.code(), code, "{last:?}: {error}");
    }
    let mut after_the_end = numbers(2);
    after_the_end.insert(1, Part::Finish(PayloadDigest::default()));
    let error = upload(&mut client, open("m"), after_the_end).await.expect_err("a part after the last");
    assert_eq!((error.code(), fields(&error)), (Code::InvalidArgument, vec!["part".to_owned()]));
    account.settled().await;
}

#[tokio::test]
async fn too_much_is_refused_by_the_name_of_the_limit() {
    let mut config = bare_config();
    config.session.upload_max_results = 4;
    config.session.upload_max_bytes = 100;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    assert_eq!(upload(&mut client, open("m"), numbers(4)).await.expect("as many as allowed").results.len(), 4);
    let error = upload(&mut client, open("m"), numbers(5)).await.expect_err("a result too many");
    assert_eq!((error.code(), limits(&error)), (Code::ResourceExhausted, vec!["session.upload_max_results".to_owned()]));
    let without_results = UploadConfig { include_results: false, ..open("m") };
    let response = upload(&mut client, without_results.clone(), numbers(6)).await.expect("96 bytes, and no results kept");
    assert_eq!((response.results.len(), response.summary.expect("a summary").ok), (0, 6));
    let error = upload(&mut client, without_results, numbers(7)).await.expect_err("112 bytes");
    assert_eq!((error.code(), limits(&error)), (Code::ResourceExhausted, vec!["session.upload_max_bytes".to_owned()]));
}

#[tokio::test]
async fn errors_of_items_come_with_the_answer() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    let parts = [item("a", &[1.0; 4]), item("b", &[-1.0; 4]), item("c", &[1.0; 2])].map(Part::Item);
    let response = upload(&mut client, open("m"), parts.to_vec()).await.expect("an answer");
    let errors: Vec<_> = response.errors.iter().map(|result| (result.seq, result.id.as_str(), outcome(result))).collect();
    assert_eq!(errors, [(1, "b", Err(Code::Internal)), (2, "c", Err(Code::InvalidArgument))]);
    assert_eq!(response.results.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_held_back_by_its_window() {
    let mut config = bare_config();
    config.session.window_items = 3;
    let server = serve(config, &[("slow", &slow_doubler(2_000))]).await;
    let account = Account::of(&server, "slow");
    let mut client = connect(&server).await;
    let uploading = tokio::spawn(async move { upload(&mut client, open("slow"), numbers(60)).await });
    until("all items are answered", || {
        let ledger = account.ledger();
        assert!(ledger.open() <= 3, "{ledger:?}");
        ledger.ended() == 60
    })
    .await;
    assert_eq!(uploading.await.expect("no panic").expect("an answer").results.len(), 60);
}
