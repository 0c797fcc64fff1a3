//! The whole path, from socket to socket: the real front ends and everything behind them, on one thread with their client.
//!
//! The client is left out of the counts. It waits until all items of a turn are queued, has the lane run them, and reads the answers, so
//! batches are the same in each run.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use futures::future::join_all;
use hyper::rt::Executor;
use tempfile::TempDir;
use tidemill::{
    config::Config,
    device::{Device, Devices, ModelRuntime, Timekeeper},
    domain::Fault,
    drain::Drain,
    engine::{EngineChoice, LaneThreads},
    frontend::{Bounds, grpc::GrpcServer, http::HttpServer},
    open_inference::OpenInference,
    proof::Store,
    proto::inference::{
        ModelInferRequest, grpc_inference_service_client::GrpcInferenceServiceClient, model_infer_request::InferInputTensor,
    },
    registry::{Folder, Host, Installer, LoadedModel, Measured, Place, Repository},
    scheduler::ModelKey,
    service::Service,
    telemetry::Telemetry,
    transport::Shutdown,
    vitals::Vitals,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tonic::transport::{Channel, Endpoint};

use crate::{
    BATCH, TURNS, VALUES,
    device::{data, model_options, queued},
    feed::{self, Feed},
    identity::ADMISSION,
    messages,
    meter::{LeftOut, case, counted},
};

/// Does what the server's own composition does, except for measuring models, which would differ from run to run.
struct Unmeasured {
    device: Arc<Device>,
    telemetry: Telemetry,
}

impl Installer for Unmeasured {
    fn prove(&self, _loaded: &mut LoadedModel, _place: Place<'_>) -> Result<Measured, Fault> {
        Ok(Measured::nothing())
    }

    fn wide_gain(&self, _loaded: &LoadedModel) -> Option<f64> {
        None
    }

    fn install(&self, loaded: &LoadedModel, _measured: &Measured) -> Result<ModelKey, Fault> {
        let metrics = self.telemetry.model(&loaded.name, &loaded.version);
        let runtime = ModelRuntime { executable: Arc::clone(&loaded.executable), metrics, costs: Vec::new() };
        Ok(self.device.add_model((&loaded.name, &loaded.version), model_options(false), runtime))
    }
}

impl Host for Unmeasured {
    fn retire(&self, key: ModelKey) {
        self.device.retire_model(key);
    }

    fn holds(&self, key: ModelKey) -> bool {
        self.device.holds(key)
    }

    fn count_load(&self, _name: &str, _version: &str, _loaded: bool, _serves: bool) {}
}

struct Server {
    device: Arc<Device>,
    model: ModelKey,
    grpc: SocketAddr,
    http: SocketAddr,
    _models: TempDir,
    _timekeeper: Timekeeper,
}

impl Server {
    fn start(runtime: &Runtime) -> Self {
        let models = feed::models(BATCH);
        let (telemetry, drain, config) = (Telemetry::new(), Drain::new(), Config::default());
        let device = Device::new(1, ADMISSION, &telemetry);
        let host = Unmeasured { device: Arc::clone(&device), telemetry: telemetry.clone() };
        let source = Box::new(Folder::new(models.path().to_owned()));
        let repository = Repository::new(vec![source], EngineChoice::Auto, LaneThreads::device(1), Box::new(host), Store::none());
        repository.start(false).expect("a sound model");
        let model = repository.registry().get("identity", None).expect("the model is there").key;
        let service =
            Service::new(repository, Devices::new(Arc::clone(&device)), config.session.clone(), drain.clone(), &telemetry);
        let bounds = Bounds::new(&config, telemetry.server());
        let open_inference = OpenInference::new(service, config.sequence, config.shared_memory);
        let _entered = runtime.enter();
        let listen = || runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).expect("a free port");
        let (grpc_listener, http_listener) = (listen(), listen());
        let [grpc, http] = [&grpc_listener, &http_listener].map(|listener| listener.local_addr().expect("it is bound"));
        let shutdown = Shutdown::default();
        let (grpc_server, _) =
            GrpcServer::new(grpc_listener, open_inference.clone(), config.grpc, bounds.clone(), shutdown.clone())
                .expect("sound descriptors");
        let http_server = HttpServer::new(http_listener, open_inference, config.http, bounds, axum::Router::new(), shutdown);
        drain.serve();
        runtime.spawn(grpc_server.serve());
        runtime.spawn(http_server.serve());
        runtime.spawn(Arc::clone(&device).kick_lanes());
        let timekeeper = Timekeeper::start(&device, &Vitals::new(&telemetry)).expect("a thread");
        Self { device, model, grpc, http, _models: models, _timekeeper: timekeeper }
    }

    /// Lets the front ends work until this many items are queued, and has the lane run them, which counts although the client does not.
    async fn run_batch(&self, items: usize) {
        while queued(&self.device, self.model) < items {
            tokio::task::yield_now().await;
        }
        assert!(counted(|| self.device.turn(0)), "a batch is queued");
        assert_eq!(queued(&self.device, self.model), 0, "it was one batch");
    }

    async fn connect(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc)).expect("an address").executor(Aside);
        endpoint.connect().await.expect("the server accepts")
    }
}

/// Runs a client's tasks without counting them.
#[derive(Clone, Copy)]
struct Aside;

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Aside {
    fn execute(&self, future: F) {
        tokio::spawn(LeftOut::new(future));
    }
}

pub(crate) fn run() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for (name, feeds, each) in
        [("grpc_feed_1_of_1_item", 1, 1), ("grpc_feed_1_of_16_items", 1, BATCH), ("grpc_feed_16_of_1_item", BATCH, 1)]
    {
        feeds_of(&runtime, name, feeds, each);
    }
    model_infer(&runtime, "grpc_model_infer", 1);
    model_infer(&runtime, "grpc_model_infer_16", BATCH);
    http_infer(&runtime);
}

/// `feeds` streams on one connection, with `each` items at once in each.
fn feeds_of(runtime: &Runtime, name: &str, feeds: usize, each: usize) {
    let server = Server::start(runtime);
    let mut open = runtime.block_on(async {
        let channel = server.connect().await;
        let mut open = Vec::new();
        for _ in 0..feeds {
            open.push(Feed::open(channel.clone()).await);
        }
        open
    });
    let request = messages::request();
    case(name, feeds * each, TURNS, || {
        let client = async {
            for feed in &open {
                for _ in 0..each {
                    feed.send(request.clone()).await;
                }
            }
            server.run_batch(feeds * each).await;
            for feed in &mut open {
                for _ in 0..each {
                    feed.result().await;
                }
            }
        };
        counted(|| runtime.block_on(LeftOut::new(client)));
    });
}

/// `ModelInfer`, one call for each item, `each` calls at once on one connection.
fn model_infer(runtime: &Runtime, name: &str, calls: usize) {
    let server = Server::start(runtime);
    let client = GrpcInferenceServiceClient::new(runtime.block_on(server.connect()));
    let input = InferInputTensor {
        name: "x".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![1, VALUES as i64],
        ..InferInputTensor::default()
    };
    let request = ModelInferRequest {
        model_name: "identity".to_owned(),
        inputs: vec![input],
        raw_input_contents: vec![data()],
        ..ModelInferRequest::default()
    };
    case(name, calls, TURNS, || {
        let call = |_| {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.model_infer(request).await }
        };
        let exchange = async {
            let (replies, ()) = tokio::join!(join_all((0..calls).map(call)), server.run_batch(calls));
            for reply in replies {
                assert_eq!(reply.expect("a reply").into_inner().raw_output_contents[0].len(), crate::BYTES);
            }
        };
        counted(|| runtime.block_on(LeftOut::new(exchange)));
    });
}

/// `POST …/infer` with binary data in both directions, over one connection.
fn http_infer(runtime: &Runtime) {
    let server = Server::start(runtime);
    let mut stream = runtime.block_on(TcpStream::connect(server.http)).expect("the server accepts");
    let json = format!(
        r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,{VALUES}],"parameters":{{"binary_data_size":{}}}}}],"#,
        crate::BYTES
    ) + r#""parameters":{"binary_data_output":true}}"#;
    let head = format!(
        "POST /v2/models/identity/infer HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/octet-stream\r\n\
         inference-header-content-length: {}\r\ncontent-length: {}\r\n\r\n",
        json.len(),
        json.len() + crate::BYTES
    );
    let request: Bytes = [head.as_bytes(), json.as_bytes(), &data()].concat().into();
    case("http_infer_binary", 1, TURNS, || {
        let exchange = async {
            stream.write_all(&request).await.expect("the server reads");
            server.run_batch(1).await;
            let mut reply = vec![0; 16 << 10];
            let mut length = 0;
            // The answer ends with the item's own bytes.
            while !(length > crate::BYTES && reply[length - crate::BYTES..length] == data()[..]) {
                let read = stream.read(&mut reply[length..]).await.expect("the server answers");
                assert!(read > 0, "{}", String::from_utf8_lossy(&reply[..length]));
                length += read;
            }
            assert!(reply.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&reply[..length]));
        };
        counted(|| runtime.block_on(LeftOut::new(exchange)));
    });
}
