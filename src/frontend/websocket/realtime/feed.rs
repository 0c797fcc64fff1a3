//! The native stream below a session: the client's audio into the model's windows.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use parking_lot::Mutex;

use super::{conversation::Window, settings::Format};
use crate::{
    codec::{Converter, WindowPosition},
    domain::{Datatype, Fault, ItemOutputs, Priority},
    native::{Native, Opened},
    registry::Model,
    service::{Caller, Method, OpenRequest},
    session::{Event, Inbound, ItemResult, Order, OverflowPolicy, PayloadKind, PcmOptions, Session, Unread},
    telemetry::StreamEnd,
};

/// Bytes that are converted at once; what a client sends in one event may be far more.
const PIECE_BYTES: usize = 16 << 10;

const SAMPLE_BYTES: usize = size_of::<i16>();

/// What the session reads next: a piece of audio, and what goes with it. It wakes nobody: what fills it polls the session afterwards.
#[derive(Clone, Default)]
struct Slot(Arc<Mutex<VecDeque<Inbound>>>);

impl Slot {
    fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    fn put(&self, inbound: Inbound) {
        self.0.lock().push_back(inbound);
    }
}

impl Stream for Slot {
    type Item = Result<Inbound, Fault>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.lock().pop_front().map_or(Poll::Pending, |inbound| Poll::Ready(Some(Ok(inbound))))
    }
}

/// What a feed has to say.
pub(super) enum Fed {
    /// About the next window, or, where it could not be run, only where that is.
    Window(Result<Window, Fault>, Option<WindowPosition>),
    /// It is over, with a fault if that is why.
    Over(Option<Fault>),
}

/// One stream on one model.
pub(super) struct Feed {
    session: Session<Slot>,
    slot: Slot,
    model: Arc<Model>,
    rate_hz: u32,
    window_samples: u64,
    /// How the client writes its audio, and what converts it.
    format: Format,
    converter: Converter,
    /// Windows that the session has been given all samples of, and those that have been answered.
    given: u64,
    answered: u64,
    /// Samples of the next window.
    begun_samples: u64,
}

impl Feed {
    /// Opens a stream on the newest version of a model.
    ///
    /// # Errors
    /// Those of [`Native::open`], and that of a model which takes no audio.
    pub(super) fn open(native: &Native, method: &Method, caller: Caller, model: &str, format: Format) -> Result<Self, Fault> {
        let request = OpenRequest {
            model: model.to_owned(),
            version: String::new(),
            payload: PayloadKind::PcmS16le,
            pcm: PcmOptions::default(),
            order: Order::InOrder,
            window_items: 0,
            unread: Unread::Block,
            default_deadline: None,
            overflow: OverflowPolicy::Block,
            max_age: None,
            priority: Priority::Normal,
            caller,
        };
        let slot = Slot::default();
        let Opened { model, framing, session, .. } = native.open(method, request, slot.clone())?;
        let framing = framing.ok_or_else(|| method.refuse(takes_no_audio(&model.loaded.name)))?;
        let converter = Converter::new(format.sound(), framing.sample_rate_hz).map_err(|fault| method.refuse(fault))?;
        Ok(Self {
            session,
            slot,
            model,
            rate_hz: framing.sample_rate_hz,
            window_samples: u64::from(framing.window_samples.max(1)),
            format,
            converter,
            given: 0,
            answered: 0,
            begun_samples: 0,
        })
    }

    /// The model that it runs on.
    pub(super) fn model(&self) -> &str {
        &self.model.loaded.name
    }

    /// Whether the session has read what it was given last.
    pub(super) fn has_room(&self) -> bool {
        self.slot.is_empty()
    }

    /// Whether all whole windows have been answered.
    pub(super) fn has_answered(&self) -> bool {
        self.slot.is_empty() && self.answered >= self.given
    }

    /// Gives the session a piece from the front of `audio`, if it has room.
    ///
    /// # Errors
    /// Those of the converter.
    pub(super) fn give(&mut self, audio: &mut Bytes) -> Result<(), Fault> {
        let piece = audio.split_to(audio.len().min(PIECE_BYTES));
        let samples = self.converter.push(&piece)?;
        self.put(samples);
        Ok(())
    }

    /// From now on, audio is written like this.
    ///
    /// # Errors
    /// Those of the converter.
    pub(super) fn set_format(&mut self, format: Format) -> Result<(), Fault> {
        if format == self.format {
            return Ok(());
        }
        self.end_sound()?;
        self.format = format;
        self.converter = Converter::new(format.sound(), self.rate_hz)?;
        Ok(())
    }

    /// Has the rest of the last window run, filled up with silence. What follows begins a window.
    ///
    /// # Errors
    /// Those of the converter.
    pub(super) fn flush(&mut self) -> Result<(), Fault> {
        self.end_sound()?;
        self.converter = Converter::new(self.format.sound(), self.rate_hz)?;
        self.slot.put(Inbound::Flush(String::new()));
        self.given += u64::from(self.begun_samples > 0);
        self.begun_samples = 0;
        Ok(())
    }

    /// The client is there, though it sends no audio.
    pub(super) fn keep_alive(&self) {
        if self.slot.is_empty() {
            self.slot.put(Inbound::KeepAlive);
        }
    }

    /// Answers what it has read, and then ends with this fault.
    pub(super) fn stop(&self, fault: Fault) {
        self.slot.put(Inbound::Stop(fault));
    }

    /// It is given up, for no fault of anybody.
    pub(super) fn leave(mut self) {
        self.session.abandon(StreamEnd::Finished);
    }

    /// What it has to say next.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Fed> {
        loop {
            match self.session.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(Fed::Over(None)),
                Poll::Ready(Some(Err(fault))) => return Poll::Ready(Fed::Over(Some(fault))),
                Poll::Ready(Some(Ok(Event::Result(result)))) => return Poll::Ready(self.heard(result)),
                // Segments are found by other rules here.
                Poll::Ready(Some(Ok(_))) => {}
            }
        }
    }

    fn heard(&mut self, result: ItemResult) -> Fed {
        let ItemResult { part, window, outcome, .. } = result;
        self.answered += u64::from(part.last);
        let Some(position) = window else { return Fed::Window(Err(lost()), None) };
        let window = outcome.map(|outputs| Window {
            position,
            probability: self.probability(&outputs).filter(|_| part.last),
            text: text_output(&self.model).and_then(|output| text(outputs.get(output)?.data())),
        });
        Fed::Window(window, Some(position))
    }

    fn probability(&self, outputs: &ItemOutputs) -> Option<f32> {
        let post = self.model.loaded.segments.as_ref()?;
        outputs.get(post.output)?.iter_f32()?.next().filter(|probability| !probability.is_nan())
    }

    /// The last samples of a sound in the old format.
    fn end_sound(&mut self) -> Result<(), Fault> {
        // Half a sample at its end is none.
        let Ok(samples) = self.converter.finish() else { return Ok(()) };
        self.put(samples);
        Ok(())
    }

    fn put(&mut self, samples: Bytes) {
        if samples.is_empty() {
            return;
        }
        self.begun_samples += (samples.len() / SAMPLE_BYTES) as u64;
        self.given += self.begun_samples / self.window_samples;
        self.begun_samples %= self.window_samples;
        self.slot.put(Inbound::Chunk(samples));
    }
}

/// The fault of a model that cannot be used here.
pub(super) fn takes_no_audio(name: &str) -> Fault {
    Fault::invalid("model", format!("model '{name}' takes no audio: its manifest has no [framing]"))
}

fn lost() -> Fault {
    Fault::new(crate::domain::FaultKind::Failed, "the result belongs to no window")
}

/// The position of the one output that is text.
pub(super) fn text_output(model: &Model) -> Option<usize> {
    let outputs = &model.signature().outputs;
    let mut texts = outputs.iter().enumerate().filter(|(_, output)| output.datatype == Datatype::Bytes);
    match (texts.next(), texts.next()) {
        (Some((position, _)), None) => Some(position),
        _ => None,
    }
}

/// The elements of a tensor of BYTES, one after another.
fn text(data: &[u8]) -> Option<String> {
    let (mut rest, mut text) = (data, String::new());
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (element, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        text.push_str(&String::from_utf8_lossy(element));
        rest = after;
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_elements_of_an_output_make_one_text() {
        assert_eq!(text(b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0c").as_deref(), Some("abc"));
        assert_eq!(text(b"\x01\0\0\0\xff").as_deref(), Some("\u{fffd}"));
        assert_eq!(text(b""), None);
        assert_eq!(text(b"\x02\0\0\0a"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(data in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = text(&data);
        }
    }
}
