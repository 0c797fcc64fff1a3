//! How the HTTP port describes the server and its models, and changes them and the memory that clients share with it.

use serde_json::{Value, json};

use tidemill::app::Server;

use crate::{
    http_client::{Http, infer_json},
    serving::{Account, COUNTER, DOUBLER, bare_config, folder_of, patiently, serve, slow_doubler, until},
};

/// Two strings in, the same two out.
const ECHO: &str = "
engine = 'synthetic'
[[inputs]]
name = 'x'
datatype = 'BYTES'
dims = ['batch', 2]
[[outputs]]
name = 'y'
datatype = 'BYTES'
dims = ['batch', 2]
[synthetic]
kind = 'identity'
";

async fn document(http: &mut Http, path: &str) -> Value {
    let (status, json) = http.get(path).await.json();
    assert_eq!(status, 200, "{path}: {json}");
    json
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_and_models_are_described() {
    let server = serve(bare_config(), &[("m", DOUBLER), ("counter", COUNTER)]).await;
    let mut http = Http::connect(&server).await;
    let told = document(&mut http, "/v2").await;
    assert_eq!((&told["name"], &told["version"]), (&json!("tidemill"), &json!(env!("CARGO_PKG_VERSION"))));
    assert!(told["extensions"].as_array().expect("a list").contains(&json!("binary_tensor_data")), "{told}");
    assert_eq!(document(&mut http, "/v2/health/live").await, json!({"live": true}));
    assert_eq!(document(&mut http, "/v2/health/ready").await, json!({"ready": true}));
    for path in ["/v2/models/m", "/v2/models/m/versions/1"] {
        let told = document(&mut http, path).await;
        assert_eq!((&told["name"], &told["versions"]), (&json!("m"), &json!(["1"])));
        assert_eq!(told["inputs"], json!([{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]));
        assert_eq!(document(&mut http, &format!("{path}/ready")).await, json!({"name": "m", "ready": true}));
        let config = document(&mut http, &format!("{path}/config")).await;
        assert_eq!((&config["name"], &config["input"][0]["name"]), (&json!("m"), &json!("x")));
    }
    for (path, status) in [
        ("/v2/models/nobody", 404),
        ("/v2/models/nobody/config", 404),
        ("/v2/models/m/versions/7", 404),
        ("/v2/models/nobody/ready", 404),
    ] {
        assert_eq!(http.get(path).await.error().0, status, "{path}");
    }
    let head = http.send("HEAD", "/v2", &[], "").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_count_what_was_asked() {
    let server = serve(bare_config(), &[("m", DOUBLER), ("counter", COUNTER)]).await;
    let mut http = Http::connect(&server).await;
    http.post("/v2/models/m/infer", infer_json(&[3, 4], &[1.0; 12])).await;
    Account::of(&server, "m").settled().await;
    for path in ["/v2/models/m/stats", "/v2/models/m/versions/1/stats"] {
        let told = document(&mut http, path).await;
        let stats = told["model_stats"].as_array().expect("a list");
        assert_eq!((stats.len(), &stats[0]["name"], &stats[0]["inference_count"]), (1, &json!("m"), &json!(3)));
    }
    let all = document(&mut http, "/v2/models/stats").await;
    assert_eq!(all["model_stats"].as_array().expect("a list").len(), 2);
    assert_eq!(http.get("/v2/models/nobody/stats").await.error().0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strings_are_strings_in_json_and_elements_in_binary_form() {
    let server = serve(bare_config(), &[("echo", ECHO)]).await;
    let mut http = Http::connect(&server).await;
    let input = json!({"name": "x", "datatype": "BYTES", "shape": [2, 2], "data": ["né", "", "a\"\n", "\u{1F600}"]});
    let told = http.post("/v2/models/echo/infer", json!({"inputs": [input]}).to_string()).await.json().1;
    assert_eq!(
        told["outputs"],
        json!([{"name": "y", "datatype": "BYTES", "shape": [2, 2], "data": ["né", "", "a\"\n", "\u{1F600}"]}])
    );
    let plain = http.post("/v2/models/echo/generate", json!({"x": [["a", "b"], ["c", "d"]]}).to_string()).await;
    assert_eq!(plain.json().1["y"], json!([["a", "b"], ["c", "d"]]));
    let data = b"\x01\0\0\0\xff\0\0\0\0";
    let raw = http.send("POST", "/v2/models/echo/infer", &[("inference-header-content-length", "0")], &data[..]).await;
    assert!(raw.body.ends_with(data), "{raw:?}");
    let input = json!({"name": "x", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": data.len()}});
    let head = json!({"inputs": [input]}).to_string();
    let length = head.len().to_string();
    let body = [head.as_bytes(), data].concat();
    let (status, error) =
        http.send("POST", "/v2/models/echo/infer", &[("inference-header-content-length", &length)], body).await.error();
    assert_eq!((status, error.contains("output 'y' has bytes that are not UTF-8 as element 0")), (400, true), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_keep_their_state_between_requests() {
    let server = serve(bare_config(), &[("counter", COUNTER)]).await;
    let mut http = Http::connect(&server).await;
    for (index, (start, end)) in [(true, false), (false, false), (false, true)].into_iter().enumerate() {
        let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]});
        let parameters = json!({"sequence_id": "s", "sequence_start": start, "sequence_end": end});
        let told = http.post("/v2/models/counter/infer", json!({"inputs": [input], "parameters": parameters}).to_string()).await;
        assert_eq!(told.json().1["outputs"][0]["data"], json!([index as f32 + 2.0]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_server_is_live_and_not_ready() {
    let server = serve(bare_config(), &[("slow", &slow_doubler(100_000))]).await;
    let (mut asking, mut looking) = (Http::connect(&server).await, Http::connect(&server).await);
    assert_eq!(looking.get("/v2/health/ready").await.status, 200);
    let account = Account::of(&server, "slow");
    let work = tokio::spawn(async move { asking.post("/v2/models/slow/infer", infer_json(&[10, 4], &[1.0; 40])).await.status });
    until("all items are in", || account.ledger().received() == 10).await;
    let address = server.http_addr();
    let draining = tokio::spawn(server.drain());
    // New connections are taken while work is left; one that exists when the drain begins is closed.
    let told = patiently(async {
        loop {
            let asked = Http::connect_to(address).await.begin("GET", "/v2/health/ready", &[], "").await;
            if asked.is_ok_and(|reply| reply.status() != 200) {
                break Http::connect_to(address).await.get("/v2/health/ready").await;
            }
        }
    })
    .await;
    assert_eq!(Http::connect_to(address).await.get("/v2/health/live").await.status, 200);
    assert_eq!(told.error().0, 503);
    assert_eq!(work.await.expect("no panic"), 200);
    draining.await.expect("no panic");
}

// ---- Repository -------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn models_are_listed_unloaded_and_loaded_again() {
    let folder = folder_of(&[("m", DOUBLER), ("counter", COUNTER)]);
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    let server = Server::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    let mut http = Http::connect(&server).await;
    let states = async |http: &mut Http, body: &str| -> Vec<String> {
        let (status, index) = http.post("/v2/repository/index", body.to_owned()).await.json();
        assert_eq!(status, 200, "{index}");
        index.as_array().expect("a list").iter().map(|entry| format!("{} {}", entry["name"], entry["state"])).collect()
    };
    assert_eq!(states(&mut http, "").await, [r#""counter" "READY""#, r#""m" "READY""#]);
    let unload = json!({"parameters": {"unload_dependents": false}}).to_string();
    assert_eq!(http.post("/v2/repository/models/m/unload", unload).await.status, 200);
    assert_eq!(states(&mut http, "{}").await, [r#""counter" "READY""#, r#""m" "UNAVAILABLE""#]);
    assert_eq!(states(&mut http, r#"{"ready": true}"#).await, [r#""counter" "READY""#]);
    assert_eq!(http.get("/v2/models/m/ready").await.error().0, 503);
    assert_eq!(http.post("/v2/models/m/infer", infer_json(&[4], &[1.0; 4])).await.error().0, 503);
    assert_eq!(http.post("/v2/repository/models/m/load", "").await.status, 200);
    assert_eq!(http.post("/v2/models/m/infer", infer_json(&[4], &[1.0; 4])).await.status, 200);
    for (path, body, status) in [
        ("models/nobody/load", "{}", 404),
        ("models/nobody/unload", "", 404),
        ("models/m/load", r#"{"parameters": {"config": "{}"}}"#, 501),
        ("models/m/load", "[", 400),
        ("index", r#"{"ready": 1}"#, 400),
    ] {
        let found = http.post(&format!("/v2/repository/{path}"), body).await.error();
        assert_eq!(found.0, status, "{path} {body}: {found:?}");
    }
}

// ---- Shared memory ----------------------------------------------------------------------------------------------------------

/// A shared memory object with these bytes in it, removed when dropped.
struct Object {
    key: String,
}

impl Object {
    fn new(bytes: &[u8]) -> Self {
        let key = format!("tidemill-http-{}", std::process::id());
        std::fs::write(format!("/dev/shm/{key}"), bytes).expect("shared memory");
        Self { key }
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(format!("/dev/shm/{}", self.key)).expect("it is there")
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(format!("/dev/shm/{}", self.key));
    }
}

async fn regions(http: &mut Http) -> Value {
    document(http, "/v2/systemsharedmemory/status").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tensors_may_be_in_shared_memory() {
    let server: Server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut http = Http::connect(&server).await;
    let numbers = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let object = Object::new(&numbers(&[0.0, 1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0]));
    assert_eq!(regions(&mut http).await, json!([]));
    let register = json!({"key": object.key, "byte_size": 32, "offset": 4}).to_string();
    let path = "/v2/systemsharedmemory/region/r%2F1/register";
    assert_eq!(http.post(path, register.clone()).await.status, 200);
    let region = json!({"name": "r/1", "key": object.key, "offset": 4, "byte_size": 32});
    assert_eq!(regions(&mut http).await, json!([region]));
    assert_eq!(document(&mut http, "/v2/systemsharedmemory/region/r%2F1/status").await, json!([region]));
    assert_eq!(http.post(path, register).await.error().0, 400, "a name is taken once");
    assert_eq!(http.post("/v2/systemsharedmemory/region/s/register", "{}").await.error().0, 400);
    assert_eq!(http.get("/v2/systemsharedmemory/region/s/status").await.error().0, 404);

    let place =
        |offset: u64| json!({"shared_memory_region": "r/1", "shared_memory_offset": offset, "shared_memory_byte_size": 16});
    let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": place(0)});
    let request = json!({"inputs": [input], "outputs": [{"name": "y", "parameters": place(16)}]});
    let told = http.post("/v2/models/m/infer", request.to_string()).await.json().1;
    let output = json!({"name": "y", "datatype": "FP32", "shape": [1, 4], "parameters": place(16)});
    assert_eq!(told["outputs"], json!([output]));
    assert_eq!(object.bytes(), numbers(&[0.0, 1.0, 2.0, 3.0, 4.0, 2.0, 4.0, 6.0, 8.0]));

    assert_eq!(http.post("/v2/systemsharedmemory/region/r%2F1/unregister", "").await.status, 200);
    assert_eq!(regions(&mut http).await, json!([]));
    assert_eq!(http.post("/v2/systemsharedmemory/unregister", "").await.status, 200);
    assert_eq!(http.post("/v2/models/m/infer", request.to_string()).await.error().0, 404);
}
