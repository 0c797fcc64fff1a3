//! The contract of plain numbers: any model with one input, and a clear message if the numbers do not fit it.

use tonic::{Code, Status, transport::Channel};

use tidemill::{
    app::Server,
    config::Config,
    domain::Outcome,
    proto::model::{PredictRequest, PredictResponse, model_inference_client::ModelInferenceClient},
};

use crate::serving::{Account, DOUBLER, bare_config, fields, metric, patiently, serve, speech_config};

const EXAMPLE: &str = "example_model";

fn example_config() -> Config {
    let mut config = bare_config();
    config.models.example = true;
    config
}

/// One tensor with this datatype and these dimensions, doubled.
fn doubler(datatype: &str, dims: &str) -> String {
    let tensor = format!("datatype = '{datatype}'\ndims = {dims}");
    format!("engine = 'synthetic'\n[[inputs]]\nname = 'x'\n{tensor}\n[[outputs]]\nname = 'y'\n{tensor}\n[synthetic]\n")
}

async fn connect(server: &Server) -> ModelInferenceClient<Channel> {
    ModelInferenceClient::connect(format!("http://{}", server.grpc_addr())).await.expect("the server accepts")
}

async fn predict(client: &mut ModelInferenceClient<Channel>, model_id: &str, inputs: &[f64]) -> Result<Vec<f64>, Status> {
    let request = PredictRequest { model_id: model_id.to_owned(), inputs: inputs.to_vec() };
    patiently(client.predict(request)).await.map(|response| {
        let PredictResponse { outputs } = response.into_inner();
        outputs
    })
}

#[tokio::test]
async fn the_example_doubles_any_number_of_numbers() {
    let server = serve(example_config(), &[]).await;
    let account = Account::of(&server, EXAMPLE);
    let mut client = connect(&server).await;
    for inputs in [vec![1.0, -2.5, 1e300], vec![0.1], (0..10_000).map(f64::from).collect()] {
        let doubled: Vec<f64> = inputs.iter().map(|number| number * 2.0).collect();
        assert_eq!(predict(&mut client, EXAMPLE, &inputs).await.expect("a result"), doubled);
    }
    assert_eq!(account.settled().await.outcome(Outcome::Ok), 3);
    let metrics = server.metrics();
    assert_eq!(metric(&metrics, "tidemill_streams_opened_total", "method=\"model_inference_predict\""), 3.0);
    assert_eq!(metric(&metrics, "tidemill_streams_opened_total", "method=\"predict\""), 0.0);
}

#[tokio::test]
async fn numbers_become_the_models_own_datatype_and_shape() {
    let models = [
        ("bytes", doubler("UINT8", "['batch', 2, 2]")),
        ("longs", doubler("INT64", "['batch', -1]")),
        ("pairs", doubler("FP32", "['batch', -1, 2]")),
        ("lone", doubler("FP64", "['batch']")),
    ];
    let models = models.each_ref().map(|(name, manifest)| (*name, manifest.as_str()));
    let server = serve(speech_config(), &models).await;
    let mut client = connect(&server).await;
    // The synthetic engine's integers saturate, which shows that they are integers.
    assert_eq!(predict(&mut client, "bytes", &[1.0, 2.0, 127.0, 200.0]).await.expect("a result"), [2.0, 4.0, 254.0, 255.0]);
    assert_eq!(predict(&mut client, "longs", &[-3.0]).await.expect("a result"), [-6.0]);
    assert_eq!(predict(&mut client, "pairs", &[0.1, 1.0, 2.0, 3.0]).await.expect("a result")[0], f64::from(0.2_f32));
    assert_eq!(predict(&mut client, "lone", &[4.0]).await.expect("a result"), [8.0]);
    let [probability] = predict(&mut client, "silero-vad", &[0.0; 576]).await.expect("a result")[..] else {
        panic!("one probability")
    };
    assert!((0.0..0.5).contains(&probability), "silence is no speech: {probability}");
}

/// Model, numbers, and what the refusal says: its code, its field, words in its message.
type Refused<'a> = (&'a str, &'a [f64], Code, &'a str, &'a [&'a str]);

#[tokio::test]
async fn what_does_not_fit_is_refused_with_its_place_and_value() {
    let models = [
        ("bytes", doubler("UINT8", "['batch', 2]")),
        ("floats", doubler("FP32", "['batch', 1]")),
        ("pairs", doubler("FP32", "['batch', -1, 2]")),
        ("images", doubler("FP32", "['batch', -1, -1]")),
        ("two", format!("{}[[inputs]]\nname = 'z'\ndatatype = 'FP32'\ndims = ['batch', 1]", doubler("FP32", "['batch', 1]"))),
    ];
    let models = models.each_ref().map(|(name, manifest)| (*name, manifest.as_str()));
    let server = serve(example_config(), &models).await;
    let mut client = connect(&server).await;
    let cases: [Refused<'_>; 13] = [
        ("", &[1.0], Code::InvalidArgument, "model_id", &["name of the model is missing", "example_model"]),
        ("nobody", &[1.0], Code::NotFound, "model_id", &["nobody", "example_model"]),
        (EXAMPLE, &[], Code::InvalidArgument, "inputs", &["no numbers", EXAMPLE]),
        ("bytes", &[], Code::InvalidArgument, "inputs", &["no numbers", "[-1, 2]"]),
        ("bytes", &[1.0, 256.0], Code::InvalidArgument, "inputs[1]", &["256.0", "UINT8", "from 0 to 255"]),
        ("bytes", &[0.5, 1.0], Code::InvalidArgument, "inputs[0]", &["0.5", "whole numbers"]),
        ("bytes", &[f64::NAN, 1.0], Code::InvalidArgument, "inputs[0]", &["NaN"]),
        ("bytes", &[1.0], Code::InvalidArgument, "inputs", &["1 numbers", "[-1, 2] takes 2"]),
        ("floats", &[-1e39], Code::InvalidArgument, "inputs[0]", &["-1e39", "FP32"]),
        ("floats", &[1.0, 2.0], Code::InvalidArgument, "inputs", &["2 numbers", "takes 1"]),
        ("pairs", &[1.0, 2.0, 3.0], Code::InvalidArgument, "inputs", &["3 numbers", "multiple of 2"]),
        ("images", &[1.0], Code::InvalidArgument, "inputs", &["several dynamic dimensions"]),
        ("two", &[1.0], Code::InvalidArgument, "model_id", &["'two' takes 2 tensors"]),
    ];
    for (model, inputs, code, field, words) in cases {
        let error = predict(&mut client, model, inputs).await.expect_err("it must be refused");
        assert_eq!((error.code(), fields(&error)), (code, vec![field.to_owned()]), "{error}");
        assert!(words.iter().all(|word| error.message().contains(word)), "{words:?} in {error}");
    }
    let metrics = server.metrics();
    let faults = |reason: &str| {
        metric(&metrics, "tidemill_faults_total", &format!("method=\"model_inference_predict\",reason=\"{reason}\""))
    };
    assert_eq!((faults("invalid"), faults("not_found")), (12.0, 1.0));
}

#[tokio::test]
async fn the_example_can_be_switched_off_or_replaced() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let error = predict(&mut connect(&server).await, EXAMPLE, &[1.0]).await.expect_err("it is off");
    assert_eq!(error.code(), Code::NotFound);
    let server = serve(example_config(), &[(EXAMPLE, &doubler("INT8", "['batch', 1]"))]).await;
    assert_eq!(predict(&mut connect(&server).await, EXAMPLE, &[100.0]).await.expect("a result"), [127.0]);
}
