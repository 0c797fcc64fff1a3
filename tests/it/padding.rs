//! Items of different lengths in one call.

use tidemill::proto::v1::{Item, PredictRequest, Tensor, feed_request::Message, predict_request::Payload};

use crate::serving::{Feed, ROUNDS_MAX, bare_config, connect, item, limits, metric, outcome, patiently, serve, tensors_of};

/// Adds to each element of a row the sum of all rows that its stream has sent so far. It would show if a row saw its padding. A stream has
/// at most one item in a call, so two items in a call are from two streams.
const ROWS: &str = "
engine = 'synthetic'
max_batch = 2
max_delay_us = 1000000
[[inputs]]
name = 'x'
datatype = 'FP32'
dims = ['batch', -1]
[[inputs]]
name = 'sum'
datatype = 'FP32'
dims = ['batch', 1]
[[outputs]]
name = 'y'
datatype = 'FP32'
dims = ['batch', -1]
[[outputs]]
name = 'next'
datatype = 'FP32'
dims = ['batch', 1]
[[states]]
input = 'sum'
output = 'next'
[padding]
buckets = [4, 8]
[synthetic]
kind = 'identity'
cost_per_call_us = 1000
";

fn row(values: &[f32]) -> Item {
    let Item { id, inputs, deadline } = item("", values);
    let shape = vec![i64::try_from(values.len()).expect("small")];
    Item { id, inputs: inputs.into_iter().map(|tensor| Tensor { shape: shape.clone(), ..tensor }).collect(), deadline }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_with_items_of_different_lengths_share_a_call_and_get_their_own_answers() {
    let mut config = bare_config();
    config.scheduler.lanes = 1;
    let server = serve(config, &[("rows", ROWS)]).await;
    let mut client = connect(&server).await;
    let (mut short, _) = Feed::open(&mut client, tensors_of("rows")).await;
    let (mut long, _) = Feed::open(&mut client, tensors_of("rows")).await;
    let mut sums = [0.0, 0.0];
    let mut met = false;
    for _ in 0..ROUNDS_MAX {
        short.send(Message::Item(row(&[1.0, 2.0, 3.0]))).await;
        long.send(Message::Item(row(&[10.0, 20.0, 30.0, 40.0]))).await;
        let results = [short.next_result().await, long.next_result().await];
        sums = [sums[0] + 6.0, sums[1] + 100.0];
        assert_eq!(outcome(&results[0]), Ok([1.0, 2.0, 3.0].map(|value| value + sums[0]).to_vec()));
        assert_eq!(outcome(&results[1]), Ok([10.0, 20.0, 30.0, 40.0].map(|value| value + sums[1]).to_vec()));
        met = results.iter().all(|result| result.timing.is_some_and(|timing| timing.batch_size == 2));
        if met {
            break;
        }
    }
    assert!(met, "two streams shared no call in {ROUNDS_MAX} rounds");
    let text = server.metrics();
    let padding = metric(&text, "tidemill_padding_elements_total", "model=\"rows\"");
    let elements = metric(&text, "tidemill_input_elements_total", "model=\"rows\"");
    assert!(padding >= 1.0 && elements >= 8.0, "{padding} of {elements}");
}

#[tokio::test]
async fn an_item_longer_than_the_last_bucket_is_refused_by_the_limits_name() {
    let server = serve(bare_config(), &[("rows", ROWS)]).await;
    let mut client = connect(&server).await;
    let payload = Some(Payload::Item(row(&[1.0; 9])));
    let request = PredictRequest { model: "rows".to_owned(), payload, ..PredictRequest::default() };
    let error = patiently(client.predict(request)).await.expect_err("9 is above 8");
    assert_eq!(limits(&error), ["padding.buckets"]);
    assert!(error.message().contains("input 'x' is 9 long, more than 8"), "{error}");
}
