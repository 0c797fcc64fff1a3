//! `POST …/generate` and `…/generate_stream`: plain JSON in, plain JSON out, at once or as it is computed.

use std::{convert::Infallible, future};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse as _, Response, Sse, sse::Event},
};
use futures::{Stream, StreamExt as _, stream};

use super::{
    api::{Api, Target},
    body::{Arrived, Sent},
    error::{Refusal, error_json},
    plain,
    request::BinaryOutputs,
    response::json_bytes,
};
use crate::{domain::Fault, open_inference::InferRequest, service::Caller, side::INLINE_BYTES_MAX, transport::Charge};

/// An event of up to this length is written where it is sent. There may be many at once, so all of them count.
const EVENT_BYTES_HERE: usize = 4 << 10;

/// How much of the answers is written before others get their turn.
const TURN_BYTES: usize = 16 << 10;

pub(super) async fn generate(State(api): State<Api>, target: Target, sent: Sent) -> Result<Response, Refusal> {
    let Asked { request, caller, charge: _charge } = ask(&api, &target, sent).await?;
    let response = api.open_inference.infer(&api.generate, request, caller).await?;
    let length = json_bytes(&response, &BinaryOutputs::default());
    let json = api.bounds.side.run_long(length, INLINE_BYTES_MAX, move || plain::encode(&response)).await;
    let json = json.map_err(|fault| api.generate.refuse(fault))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// Before the first response, an error is the status. After it the status has been sent, so an error is the last event.
pub(super) async fn generate_stream(State(api): State<Api>, target: Target, sent: Sent) -> Result<Response, Refusal> {
    let Asked { request, caller, charge } = ask(&api, &target, sent).await?;
    let responses = api.open_inference.infer_each(&api.generate, request, caller)?;
    let encoding = api.clone();
    let mut answers = Box::pin(responses.then(move |response| {
        let api = encoding.clone();
        async move {
            let response = response?;
            let length = json_bytes(&response, &BinaryOutputs::default());
            let answer = api.bounds.side.run_long(length, EVENT_BYTES_HERE, move || plain::encode(&response)).await;
            answer.inspect_err(|fault| api.generate.count_fault(fault))
        }
    }));
    let first = answers.next().await.unwrap_or_else(|| Err(Fault::invalid("inputs", "the request holds no item")))?;
    let answers = stream::once(future::ready(Ok(first))).chain(answers);
    // The request is kept until the last answer.
    let answers = to_first_error(in_turns(answers)).inspect(move |_| {
        let _held = &charge;
    });
    Ok(Sse::new(answers).into_response())
}

/// Yields to others each time this many bytes of answers have been written, as they may all be ready at once.
fn in_turns(answers: impl Stream<Item = Result<String, Fault>>) -> impl Stream<Item = Result<String, Fault>> {
    let mut written = 0;
    answers.then(move |answer| {
        written += answer.as_ref().map_or(0, String::len);
        let is_turn_over = written > TURN_BYTES;
        if is_turn_over {
            written = 0;
        }
        async move {
            if is_turn_over {
                tokio::task::yield_now().await;
            }
            answer
        }
    })
}

fn to_first_error(answers: impl Stream<Item = Result<String, Fault>>) -> impl Stream<Item = Result<Event, Infallible>> {
    answers.scan(false, |failed, answer| {
        let goes_on = !std::mem::replace(failed, answer.is_err());
        let event = || Event::default().data(answer.unwrap_or_else(|fault| error_json(fault.message())));
        future::ready(goes_on.then(event).map(Ok))
    })
}

/// The request.
struct Asked {
    request: InferRequest,
    caller: Caller,
    /// Of its body.
    charge: Charge,
}

async fn ask(api: &Api, target: &Target, sent: Sent) -> Result<Asked, Refusal> {
    let count = |fault| api.generate.refuse(fault);
    let arrived = sent.to(&api.generate).read(api).await;
    let Arrived { headers, body, charge } = arrived.inspect_err(|refusal| api.generate.count_fault(&refusal.fault))?;
    let model = api.open_inference.service().find(&target.model, &target.version).map_err(count)?;
    // The version that it was read for, even if a newer one has since been loaded.
    let (name, version) = (model.loaded.name.to_string(), model.loaded.version.to_string());
    let bytes = body.len();
    let decode = move || plain::decode(&body, model.signature());
    let decoded = api.bounds.side.run_long(bytes, INLINE_BYTES_MAX, decode).await.map_err(count)?;
    let request = InferRequest { model: name, version, ..decoded };
    Ok(Asked { request, caller: api.caller(&headers), charge })
}
