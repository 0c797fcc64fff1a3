//! The doors of the native API for clients without gRPC: JSON, gRPC-Web, Connect and WebSocket.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{SinkExt as _, StreamExt as _};
use http::HeaderMap;
use prost::Message as _;
use serde_json::{Value, json};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{self, Message},
};
use tonic::{Code, Status};

use super::{
    Ask, Doors, HIGH, Told,
    doors::{post, predict_request},
};
use crate::serving::patiently;

const PREDICT: &str = "/tidemill.v1.InferenceService/Predict";

fn item(ask: &Ask) -> Value {
    let tensor = |input: &super::Input| {
        let datatype = if input.datatype == "FP13" { json!(99) } else { json!(format!("DATATYPE_{}", input.datatype)) };
        let shape: Vec<String> = input.shape.iter().map(ToString::to_string).collect();
        json!({ "name": input.name, "datatype": datatype, "shape": shape, "data": STANDARD.encode(&input.data) })
    };
    let mut item = json!({ "id": ask.id, "inputs": ask.inputs.iter().map(tensor).collect::<Vec<_>>() });
    if let Some(micros) = ask.timeout_us {
        item["deadline"] = json!(format!("{:.6}s", micros as f64 / 1e6));
    }
    item
}

/// The model is in the path; `in_body` adds it to the body.
fn predict_json(ask: &Ask, in_body: bool) -> Vec<u8> {
    let mut request = json!({ "item": item(ask) });
    if in_body {
        request["model"] = json!(ask.model);
        request["version"] = json!(ask.version);
    }
    if ask.parameter == HIGH {
        request["priority"] = json!("PRIORITY_HIGH");
    }
    request.to_string().into_bytes()
}

/// Status of HTTP, and the code and message of a `google.rpc.Status`.
pub(super) async fn ask_json(doors: Doors, ask: &Ask) -> Told {
    let version = if ask.version.is_empty() { String::new() } else { format!("/versions/{}", ask.version) };
    let path = format!("/tidemill/v1/models/{}{version}/predict", ask.model);
    let (status, body) =
        patiently(post(doors.http, &path, "Content-Type: application/json\r\n", &predict_json(ask, false))).await;
    let answer = parsed(&body);
    Told { code: format!("{status} {:?}", code(&answer["code"])), message: text(&answer["message"]) }
}

/// Status of HTTP, and the code that Connect spells in lower case.
pub(super) async fn ask_connect(doors: Doors, ask: &Ask) -> Told {
    let fields = "Content-Type: application/json\r\nConnect-Protocol-Version: 1\r\n";
    let (status, body) = patiently(post(doors.http, PREDICT, fields, &predict_json(ask, true))).await;
    let answer = parsed(&body);
    Told { code: format!("{status} {}", text(&answer["code"])), message: text(&answer["message"]) }
}

pub(super) async fn ask_grpc_web(doors: Doors, ask: &Ask) -> Told {
    let message = predict_request(ask).encode_to_vec();
    let length = u32::try_from(message.len()).expect("short");
    let body = [&[0][..], &length.to_be_bytes(), &message].concat();
    let (status, body) = patiently(post(doors.http, PREDICT, "Content-Type: application/grpc-web+proto\r\n", &body)).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    assert_eq!(body.first(), Some(&0x80), "the only frame is that of the trailers");
    let trailers = str::from_utf8(&body[5..]).expect("text");
    let fields = trailers.lines().filter_map(|line| line.split_once(':'));
    let fields: HeaderMap =
        fields.map(|(name, value)| (name.parse().expect("a name"), value.trim().parse().expect("a value"))).collect();
    let status = Status::from_header_map(&fields).expect("a status");
    Told { code: format!("{:?}", status.code()), message: status.message().to_owned() }
}

/// The fault that ends the stream, or answers its item.
pub(super) async fn ask_socket(doors: Doors, ask: &Ask) -> Told {
    let mut socket = match patiently(connect_async(format!("ws://{}/tidemill/v1/feed", doors.http))).await {
        Ok((socket, _)) => socket,
        Err(tungstenite::Error::Http(refusal)) => {
            // A server that drains takes no more sockets, and says so in the form of HTTP.
            assert_eq!(refusal.status(), 503);
            let answer = parsed(refusal.body().as_deref().expect("a body"));
            return Told { code: format!("{:?}", Code::Unavailable), message: text(&answer["error"]) };
        }
        Err(error) => panic!("no socket: {error}"),
    };
    let mut open = json!({ "model": ask.model, "version": ask.version });
    if ask.parameter == HIGH {
        open["priority"] = json!("PRIORITY_HIGH");
    }
    for message in [json!({ "open": open }), json!({ "item": item(ask) }), json!({ "finish": {} })] {
        // The server may have ended the stream already.
        let _ = socket.send(Message::text(message.to_string())).await;
    }
    let mut ended = Told::default();
    while let Some(Ok(message)) = patiently(socket.next()).await {
        match message {
            Message::Text(text) => {
                let event = parsed(text.as_bytes());
                let error = if event["error"].is_null() { &event["result"]["error"] } else { &event["error"] };
                if !error.is_null() {
                    let told = Told { code: format!("{:?}", code(&error["code"])), message: self::text(&error["message"]) };
                    if ended.code.is_empty() {
                        ended = told;
                    }
                }
            }
            Message::Close(Some(tungstenite::protocol::CloseFrame { code, reason })) if ended.code.is_empty() => {
                // What is too long to be read has no answer but this.
                ended = Told { code: code.to_string(), message: reason.to_string() };
            }
            _ => {}
        }
    }
    ended
}

fn parsed(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(body)))
}

fn code(value: &Value) -> Code {
    Code::from(value.as_i64().and_then(|code| i32::try_from(code).ok()).unwrap_or_else(|| panic!("no code: {value}")))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}
