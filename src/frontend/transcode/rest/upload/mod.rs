//! `POST …/upload`: a recording in any common format, decoded as it arrives, as the samples of a call of `Upload`.
//!
//! Three things go on at once in one future: the body is read, a side thread decodes what has come, and the call takes the samples. Each waits
//! for the next through little room, so a model that is slow holds the client back. What is held of the body is charged to its connection: at
//! first what it takes to know the format, and then what the decoder needs at once.

mod arriving;
mod decoder;
mod fed;
mod media;
mod settings;

use std::{future::pending, pin::pin};

use bytes::Bytes;
use futures::{
    future::{Either, select},
    stream,
};
use http::{HeaderName, HeaderValue, Response, request::Parts};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, body::Body};

pub(super) use self::settings::fields as settings;

use self::{
    arriving::Arriving,
    decoder::{Decoder, STEP_BYTES},
    media::media,
    settings::Settings,
};
use super::{
    super::{
        call::{Call, Piece},
        connection::Connection,
        frames::Charged,
        schema::to_protobuf,
    },
    call_of, charged_response, query,
    refusal::Refusal,
    routes::Route,
};
use crate::{
    domain::{Fault, FaultKind},
    proto::v1,
};

/// Messages that wait for the call.
const QUEUED: usize = 2;

/// What a message holds besides its samples.
const MESSAGE_OVERHEAD_BYTES: u64 = 64;

/// Says what audio a model takes.
const SCAN: &str = "/tidemill.v1.InferenceService/Scan";

/// Says what was wrong with a recording that could still be read.
const WARNING: HeaderName = HeaderName::from_static("x-tidemill-warning");

/// Messages on their way to the call.
type Sender = mpsc::Sender<Result<Charged, Status>>;

/// Answers an upload.
///
/// # Errors
/// Those of the call, and of a recording that cannot be read.
pub(super) async fn answer(
    connection: &Connection,
    head: &Parts,
    body: Body,
    route: &Route,
    values: &[String],
) -> Result<Response<Body>, Refusal> {
    let parameters = query::parameters(head.uri.query().unwrap_or_default())?;
    let settings = Settings::of(&route.rpc, &parameters).map_err(closing)?;
    let media = media(&head.headers, &settings).map_err(|(fault, status)| match status {
        Some(status) => Refusal::with_status(&fault, status).closing(),
        None => closing(fault),
    })?;
    let named = |name: &str| {
        let at = route.template.variables().iter().position(|variable| variable.name() == name);
        at.and_then(|at| values.get(at)).map_or("", String::as_str)
    };
    let (model, version) = (named("model"), named("version"));
    let audio = audio_of(connection, head, model, version).await.map_err(Refusal::closing)?;
    let open = to_protobuf(&route.rpc.input(), settings.open(model, version, audio.rate_hz).to_string().as_bytes())?;
    let mut arriving = Arriving::new(connection, &head.headers, body, media);
    let decoder = arriving.opened(media.taken, audio.rate_hz).await?;

    let (sender, receiver) = mpsc::channel(QUEUED);
    let calling = async {
        let mut answer = call_of(route, head).send(connection, ReceiverStream::new(receiver)).await;
        answer.only().await.map(|(message, _)| message).map_err(Refusal::from)
    };
    let sending = pin!(send(connection, arriving, decoder, sender, open, audio.message_bytes));
    let (flaw, message) = match select(sending, pin!(calling)).await {
        // If the recording is broken, its call is given up: half of it is not all.
        Either::Left((sent, calling)) => (sent?, calling.await?),
        // An upload ends before its recording only by failing.
        Either::Right((answered, _)) => {
            answered.map_err(Refusal::closing)?;
            return Err(Fault::new(FaultKind::Failed, "the answer came before the recording had ended").into());
        }
    };
    let mut response = charged_response(connection.to_json(route.rpc.output(), message).await?);
    if let Some(flaw) = flaw.and_then(|flaw| HeaderValue::from_str(&flaw).ok()) {
        response.headers_mut().insert(WARNING, flaw);
    }
    Ok(response)
}

/// The rest of the body is not read.
fn closing(fault: Fault) -> Refusal {
    Refusal::from(fault).closing()
}

/// What a model takes.
struct Audio {
    rate_hz: u32,
    /// Largest chunk.
    message_bytes: usize,
}

/// Asks by a scan of nothing, because the answer to that begins with all of it, and whoever may upload may scan.
async fn audio_of(connection: &Connection, head: &Parts, model: &str, version: &str) -> Result<Audio, Refusal> {
    let config = v1::StreamConfig {
        model: model.to_owned(),
        version: version.to_owned(),
        payload: v1::PayloadKind::PcmS16le.into(),
        ..v1::StreamConfig::default()
    };
    let payload = Some(v1::scan_request::Payload::PcmS16le(Bytes::new()));
    let scan = v1::ScanRequest { config: Some(config), payload }.encode_to_vec();
    let scan = Charged { bytes: scan.into(), charge: connection.account.charge() };
    let mut answer = Call::new(SCAN, &head.headers).send(connection, stream::iter([Ok(scan)])).await;
    let unexpected = || Fault::new(FaultKind::Failed, "the model does not say which audio it takes");
    let message = match answer.next().await {
        Piece::Message(message) => message,
        Piece::End(status) if status.code() != Code::Ok => return Err(status.into()),
        Piece::End(_) => return Err(unexpected().into()),
    };
    let response = v1::ScanResponse::decode(message.bytes).map_err(|_| unexpected())?;
    let Some(v1::scan_response::Event::Opened(opened)) = response.event else { return Err(unexpected().into()) };
    let framing = opened.framing.ok_or_else(unexpected)?;
    let bytes_max = opened.limits.map_or(0, |limits| limits.max_message_bytes);
    let room = bytes_max.saturating_sub(MESSAGE_OVERHEAD_BYTES).clamp(2, STEP_BYTES as u64);
    Ok(Audio { rate_hz: framing.sample_rate_hz, message_bytes: usize::try_from(room).unwrap_or(STEP_BYTES) & !1 })
}

/// Sends all samples, and returns what was wrong with the recording, if anything. Where the call has ended, this waits for ever: its answer
/// says why.
async fn send(
    connection: &Connection,
    mut arriving: Arriving,
    mut decoder: Decoder,
    sender: Sender,
    open: Bytes,
    message_bytes: usize,
) -> Result<Option<String>, Refusal> {
    put(connection, &sender, open).await?;
    loop {
        let step = arriving.step(&mut decoder).await?;
        let mut samples = Bytes::from(step.samples);
        while !samples.is_empty() {
            let chunk = samples.split_to(samples.len().min(message_bytes));
            let part = Some(v1::upload_request::Part::Chunk(chunk));
            put(connection, &sender, v1::UploadRequest { part }.encode_to_vec().into()).await?;
        }
        if step.is_last {
            return Ok(step.flaw);
        }
    }
}

async fn put(connection: &Connection, sender: &Sender, bytes: Bytes) -> Result<(), Refusal> {
    let mut charge = connection.account.charge();
    charge.grow(bytes.len()).map_err(closing)?;
    match sender.send(Ok(Charged { bytes, charge })).await {
        Ok(()) => Ok(()),
        Err(_) => pending().await,
    }
}
