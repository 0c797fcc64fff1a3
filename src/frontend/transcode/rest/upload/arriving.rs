//! The body of an upload on its way: read, charged, and handed to the decoder.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use tonic::body::Body;

use super::{
    super::{super::connection::Connection, refusal::Refusal},
    decoder::{self, Decoder, Step, Taken},
    fed::Swapper,
    media::Media,
};
use crate::{
    domain::{Fault, FaultKind},
    side::SideThreads,
    transport::Charge,
};

/// How much of a recording is awaited before it is first looked at. If that is too little, twice as much is.
const FIRST_BYTES: usize = 64 << 10;

/// Of a body whose length is known, the end is awaited as a whole from here on: there may be a picture, which takes up more than a piece of
/// sound does.
const TAIL_BYTES: u64 = 1 << 20;

const BYTES_KEY: &str = "grpc.max_message_bytes";
const TIMEOUT_KEY: &str = "grpc.body_timeout_s";

/// A body.
pub(super) struct Arriving {
    body: Body,
    charge: Charge,
    /// What the decoder may have kept of it.
    kept: usize,
    /// Present where samples come with the high byte first.
    swapper: Option<Swapper>,
    has_ended: bool,
    /// Bytes that are yet to come, if the request says.
    left: Option<u64>,
    limits: Limits,
    side: SideThreads,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    /// What is held of a recording at most until its samples are found.
    held_bytes_max: usize,
    /// Within which they have to be found, and then each piece has to come.
    timeout: Duration,
}

impl Arriving {
    pub(super) fn new(connection: &Connection, headers: &HeaderMap, body: Body, media: Media) -> Self {
        let left = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let config = &connection.shared.config;
        Self {
            body,
            charge: connection.account.charge(),
            kept: 0,
            swapper: media.is_swapped.then(Swapper::default),
            has_ended: false,
            left,
            limits: Limits { held_bytes_max: config.max_message_bytes, timeout: config.body_timeout() },
            side: connection.shared.bounds.side.clone(),
        }
    }

    /// Reads until it is known what the recording is, and how to give its samples at this rate.
    ///
    /// # Errors
    /// Those of a recording that cannot be read, comes too slowly, or has to be held and is too long for that.
    pub(super) async fn opened(&mut self, taken: Taken, rate_hz: u32) -> Result<Decoder, Refusal> {
        let timeout = self.limits.timeout;
        tokio::time::timeout(timeout, self.opening(taken, rate_hz)).await.unwrap_or_else(|_| Err(late(timeout)))
    }

    async fn opening(&mut self, taken: Taken, rate_hz: u32) -> Result<Decoder, Refusal> {
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        // Nothing is read of raw samples before the first step.
        let mut wanted = if matches!(taken, Taken::Raw(_)) { 0 } else { FIRST_BYTES };
        loop {
            while bytes < wanted
                && let Some(piece) = self.next().await?
            {
                // What has come may be looked at in any case.
                if bytes > self.limits.held_bytes_max {
                    return Err(closing(too_far_back(self.limits.held_bytes_max)));
                }
                bytes += piece.len();
                pieces.push(piece);
            }
            // Some formats are read as a whole, and then copied.
            self.charge.grow(bytes).map_err(closing)?;
            let opened = decoder::open(&self.side, &pieces, self.has_ended, taken, rate_hz).await.map_err(closing)?;
            if let Some(decoder) = opened {
                self.kept = self.charge.bytes().saturating_sub(decoder.fed().available());
                return Ok(decoder);
            }
            self.charge.shrink_to(bytes);
            wanted = bytes.saturating_mul(2).max(FIRST_BYTES);
        }
    }

    /// Reads what the decoder needs, and lets it do a step.
    ///
    /// # Errors
    /// Those of a recording that is broken or comes too slowly.
    pub(super) async fn step(&mut self, decoder: &mut Decoder) -> Result<Step, Refusal> {
        let timeout = self.limits.timeout;
        while !decoder.is_ready() || self.is_near_the_end() {
            match tokio::time::timeout(timeout, self.next()).await.unwrap_or_else(|_| Err(late(timeout)))? {
                Some(piece) => decoder.fed().push(piece),
                None => decoder.fed().end(),
            }
        }
        let step = decoder.step(&self.side).await.map_err(closing)?;
        self.charge.shrink_to(self.kept + decoder.fed().available());
        Ok(step)
    }

    fn is_near_the_end(&self) -> bool {
        !self.has_ended && self.left.is_some_and(|left| left <= TAIL_BYTES)
    }

    /// The next piece; none after the last.
    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        while !self.has_ended {
            let Some(frame) = self.body.frame().await else {
                self.has_ended = true;
                return Ok(self.swapper.take().map(Swapper::rest));
            };
            let frame = frame
                .map_err(|error| closing(Fault::invalid("body", format!("the body cannot be read: {}", error.message()))))?;
            // Trailers say nothing here.
            let Ok(data) = frame.into_data() else { continue };
            self.charge.grow(data.len()).map_err(closing)?;
            self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
            return Ok(Some(match &mut self.swapper {
                Some(swapper) => swapper.swap(&data),
                None => data,
            }));
        }
        Ok(None)
    }
}

/// The rest of the body is not read.
fn closing(fault: Fault) -> Refusal {
    Refusal::from(fault).closing()
}

fn late(limit: Duration) -> Refusal {
    let seconds = limit.as_secs();
    let message = format!("nothing more of the recording came within the {seconds} s that {TIMEOUT_KEY} allows");
    let fault = Fault::new(FaultKind::Expired, message).with_limit(TIMEOUT_KEY, seconds);
    Refusal::with_status(&fault, StatusCode::REQUEST_TIMEOUT).closing()
}

fn too_far_back(limit: usize) -> Fault {
    let message = format!(
        "the recording's samples cannot be found in the first {limit} bytes, the most that {BYTES_KEY} allows to be held; put an MP4's \
         index first (ffmpeg -movflags +faststart), or use `tidemill upload`"
    );
    Fault::new(FaultKind::TooLarge, message).with_limit(BYTES_KEY, limit as u64)
}
