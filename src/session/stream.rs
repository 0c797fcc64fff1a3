//! The session itself.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::Stream;

use super::{
    event::{Event, Inbound, ItemResult, Summary},
    faults::{call_expired, draining, silent_for},
    intake::{Arrival, Intake},
    options::{OnDrain, Order, OverflowPolicy, Place, SessionMetrics, SessionOptions, WhenFull},
    payload::PayloadKind,
    pending::{PendingAnswer, PendingItem, PendingItems},
    raw::Framed,
};
use crate::{
    clock,
    codec::{SegmentEvent, SegmentFinder, WindowPosition},
    device::{Staged, StreamHandle, Submitted},
    domain::{Answer, AnswerPart, Fault, FaultKind, ItemOutputs, ItemTiming, Outcome, Timestamp, data_bytes},
    drain::Drain,
    patience::{Due, Moment, Patience},
    registry::Model,
    scheduler::{EndReason, Item},
    telemetry::{GaugeGuard, StreamEnd},
};

/// How many answers of dropped items a stream keeps until their turn comes, in windows.
const DROPPED_PER_WINDOW: usize = 8;

/// How many slices of a raw payload are converted before others on the connection have their turn: about a millisecond.
const CONVERSIONS_MAX: usize = 8;

/// A point in the stream at which something happens once all items before it have been answered.
#[derive(Debug)]
struct Mark {
    /// Number of the first item after it.
    seq: u64,
    /// Samples before it.
    samples: u64,
    /// The flush to confirm; `None` at the end of the input.
    flush: Option<String>,
}

/// What the session is doing with its input.
#[derive(Debug)]
enum Input {
    /// Reads messages.
    Open,
    /// Has a flush to finish, then reads on.
    Flushing(String),
    /// Has the rest of a raw payload to run, then ends with the fault, if any.
    Ending(Option<Fault>),
    /// Reads no more; the fault, if any, follows the last answer.
    Ended(Option<Fault>),
}

/// One client stream. See the module's text.
pub struct Session<I> {
    inbound: I,
    handle: StreamHandle,
    model: Arc<Model>,
    pub(super) options: SessionOptions,
    drain: Drain,
    pub(super) metrics: SessionMetrics,
    _place: Place,
    intake: Intake,
    input: Input,
    pending: PendingItems,
    staged: Staged,
    answers: VecDeque<Answer>,
    events: VecDeque<Event>,
    marks: VecDeque<Mark>,
    segments: Option<SegmentFinder>,
    summary: Summary,
    opened: Timestamp,
    heard: Moment,
    patience: Patience,
    stalled: Option<GaugeGuard>,
    /// Whether it reads nothing because it has taken more than may come in a second.
    slowed: bool,
    done: bool,
}

impl<I> Session<I> {
    /// Says why the session ends early.
    pub fn abandon(&mut self, end: StreamEnd) {
        self.metrics.end = end;
    }
}

impl<I> Session<I>
where
    I: Stream<Item = Result<Inbound, Fault>> + Unpin,
{
    /// Opens a session on a stream of `model` that is already open.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`] if the model cannot take this kind of payload, or audio at this rate.
    pub fn new(
        inbound: I,
        handle: StreamHandle,
        model: Arc<Model>,
        options: SessionOptions,
        drain: Drain,
        metrics: SessionMetrics,
        place: impl Into<Place>,
    ) -> Result<Self, Fault> {
        let intake = Intake::new(&model, options.payload, options.pcm, options.max_item_bytes)?;
        let segments = (options.payload == PayloadKind::PcmS16le)
            .then(|| model.loaded.segments.as_ref().zip(model.loaded.framing))
            .flatten()
            .map(|(post, framing)| SegmentFinder::new(post.rules, framing.sample_rate_hz));
        Ok(Self {
            inbound,
            handle,
            model,
            options,
            drain,
            metrics,
            _place: place.into(),
            intake,
            input: Input::Open,
            pending: PendingItems::default(),
            staged: Staged::new(),
            answers: VecDeque::new(),
            events: VecDeque::new(),
            marks: VecDeque::new(),
            segments,
            summary: Summary::default(),
            opened: clock::now(),
            heard: Moment::now(),
            patience: Patience::new(),
            stalled: None,
            slowed: false,
            done: false,
        })
    }

    /// Returns the input, and what the end is counted with. Cancels what is in flight.
    pub(super) fn into_parts(self) -> (I, SessionMetrics) {
        (self.inbound, self.metrics)
    }

    /// Flushes waiting for their turn count like items; otherwise a client could pile them up.
    fn has_room(&self) -> bool {
        let (pending, options) = (&self.pending, &self.options);
        let items_fit = match options.overflow {
            OverflowPolicy::Block => pending.len() < options.window_items && pending.bytes() < options.window_bytes,
            // The queue keeps to the window; this also counts the answers of dropped items, which wait for their turn.
            OverflowPolicy::DropOldest | OverflowPolicy::Latest => {
                pending.len() < options.window_items.saturating_mul(DROPPED_PER_WINDOW)
                    && self.staged.bytes() < options.window_bytes
            }
        };
        (pending.is_empty() || items_fit) && self.marks.len() < options.window_items
    }

    /// Takes in as much as the window allows, and queues it under a single lock.
    fn take_in(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        // Reads even while staged items wait for room: an item's deadline counts from when it is read.
        self.read(cx)?;
        if self.staged.is_empty() {
            return Ok(());
        }
        let waits = self.options.when_full == WhenFull::Wait;
        match self.handle.submit(&mut self.staged, waits) {
            Submitted::All => {}
            Submitted::Full(_) if waits => {}
            Submitted::Full(refusal) => {
                let (limit, value) = (refusal.limit, refusal.value);
                let message = if refusal.by_share {
                    format!(
                        "this client has used up its share of the {value} that {limit} allows to wait, counted by connection, address and tenant; the rest is kept for others; try again later"
                    )
                } else {
                    format!("{limit} = {value} items or bytes are queued already; try again later")
                };
                let fault = Fault::new(FaultKind::Overloaded, message)
                    .with_limit(refusal.limit, refusal.value as u64)
                    .with_retry_after(refusal.retry_after);
                for item in self.staged.take_all() {
                    self.answer_unqueued(item.ticket, item.arrived, Outcome::Refused, fault.clone());
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), Fault> {
        let now = clock::now();
        let (mut heard, mut conversions) = (false, 0);
        self.slowed = false;
        while self.has_room() {
            if self.options.owes(now).is_some() && !self.drain.is_draining() {
                self.slowed = !matches!(self.input, Input::Ended(_));
                break;
            }
            match self.intake.next_window()? {
                Framed::Window(arrival) => {
                    self.admit(arrival, now);
                    continue;
                }
                Framed::Converted if conversions < CONVERSIONS_MAX => {
                    conversions += 1;
                    continue;
                }
                Framed::Converted => {
                    cx.waker().wake_by_ref();
                    break;
                }
                Framed::Nothing => {}
            }
            match &self.input {
                Input::Ended(_) => break,
                Input::Flushing(_) | Input::Ending(_) if self.intake.end_sound() => continue,
                Input::Flushing(_) | Input::Ending(_) => {
                    self.finish_part(now);
                    continue;
                }
                Input::Open => {}
            }
            if self.drain.is_draining() && self.options.on_drain == OnDrain::Stop {
                // As at the end of the input: the rest of a raw payload is run, and an open segment ends.
                self.input = Input::Ending(Some(draining()));
                continue;
            }
            match Pin::new(&mut self.inbound).poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => self.input = Input::Ending(None),
                Poll::Ready(Some(message)) => {
                    heard = true;
                    self.receive(message?, now)?;
                }
            }
        }
        if heard {
            self.heard = Moment::now();
        }
        self.note_stall();
        Ok(())
    }

    fn receive(&mut self, message: Inbound, now: Timestamp) -> Result<(), Fault> {
        match message {
            Inbound::Item(request) => self.take_item(self.intake.item(request)?, now),
            Inbound::Checked(item) => self.take_item(self.intake.checked(item)?, now),
            Inbound::Chunk(chunk) => {
                self.count_payload(chunk.len());
                self.intake.chunk(chunk)?;
            }
            Inbound::Flush(id) => self.input = Input::Flushing(id),
            Inbound::KeepAlive => {}
            Inbound::Leaving(remaining) => self.events.push_back(Event::ReconnectAdvised { remaining }),
            // As in a drain.
            Inbound::Stop(fault) => self.input = Input::Ending(Some(fault)),
        }
        Ok(())
    }

    fn take_item(&mut self, arrival: Arrival, now: Timestamp) {
        if let Ok(inputs) = &arrival.inputs {
            self.count_payload(data_bytes(inputs));
        }
        self.admit(arrival, now);
    }

    fn count_payload(&mut self, bytes: usize) {
        self.summary.payload_bytes += bytes as u64;
        self.metrics.method.bytes_in.increment(bytes as u64);
    }

    /// Runs the padded rest of a raw payload, and marks the place of the flush or the end.
    fn finish_part(&mut self, now: Timestamp) {
        if let Some(arrival) = self.intake.flush() {
            self.admit(arrival, now);
        }
        let (flush, next) = match std::mem::replace(&mut self.input, Input::Open) {
            Input::Flushing(id) => (Some(id), Input::Open),
            Input::Ending(fault) => (None, Input::Ended(fault.or_else(|| self.intake.finish().err()))),
            Input::Open | Input::Ended(_) => return,
        };
        self.marks.push_back(Mark { seq: self.pending.next_seq(), samples: self.intake.samples(), flush });
        self.input = next;
    }

    /// Gives an item its number, and stages it or answers it with its fault.
    fn admit(&mut self, arrival: Arrival, now: Timestamp) {
        let Arrival { id, window, inputs, deadline } = arrival;
        let seq = self.pending.next_seq();
        self.summary.items += 1;
        let bytes = inputs.as_ref().map_or(0, |inputs| data_bytes(inputs));
        self.pending.push(PendingItem { id, window, bytes, answer: PendingAnswer::Waiting });
        match inputs.and_then(|inputs| self.options.charge(bytes, now).map(|()| inputs)) {
            Ok(inputs) => {
                let allowed = deadline.or(self.options.default_deadline);
                let deadline = allowed.map_or(Timestamp::NEVER, |allowed| now + allowed).min(self.options.ends_at);
                let stale_at = self.options.max_age.map_or(Timestamp::NEVER, |max_age| now + max_age);
                let sizes = self.intake.batch_sizes(&inputs);
                let shape = sizes.map(|sizes| self.handle.shape_key(&sizes)).unwrap_or_default();
                self.staged.push(Item {
                    ticket: seq,
                    arrived: now,
                    deadline,
                    stale_at,
                    bytes,
                    length: self.intake.length(&inputs),
                    shape,
                    payload: inputs,
                });
            }
            Err(fault) => {
                self.answer_unqueued(seq, now, Outcome::Refused, fault);
            }
        }
    }

    fn answer_unqueued(&mut self, seq: u64, arrived: Timestamp, outcome: Outcome, fault: Fault) {
        let now = clock::now();
        self.handle.end_unqueued(outcome, now.since(arrived));
        let timing = ItemTiming { arrived, started: now, finished: now, batch_size: 0 };
        self.answers.push_back(Answer { seq, part: AnswerPart::ONLY, outcome: Err(fault), timing });
    }

    /// Answers items that expired while they waited for room.
    fn expire_staged(&mut self) {
        if self.staged.is_empty() {
            return;
        }
        let now = clock::now();
        for item in self.staged.take_due(now) {
            let waited = now.since(item.arrived);
            let (kind, limit) = match item.lateness() {
                EndReason::Expired => (FaultKind::Expired, "its deadline"),
                EndReason::Dropped(_) => (FaultKind::Dropped, "the stream's max_age"),
            };
            let message =
                format!("the item waited {waited:.1?} for room in the queue until {limit} passed; the model did not run on it");
            self.answer_unqueued(item.ticket, item.arrived, item.lateness().outcome(), Fault::new(kind, message));
        }
    }

    /// Turns answers into events.
    fn absorb_answers(&mut self) {
        self.pass_marks();
        while let Some(answer) = self.answers.pop_front() {
            if !answer.part.last {
                self.absorb_part(answer);
                continue;
            }
            self.count_call(&answer.timing);
            if self.options.order == Order::AsReady {
                self.give_early(answer);
            } else if answer.seq == self.pending.first_seq() {
                let Some(PendingItem { id, window, .. }) = self.pending.pop_first() else { continue };
                self.give(id, window, answer);
            } else {
                self.pending.settle(answer.seq, answer.outcome.is_err(), PendingAnswer::Ready(Box::new(answer)));
                continue;
            }
            self.give_kept();
        }
    }

    fn count_call(&mut self, timing: &ItemTiming) {
        let share = timing.finished.since(timing.started).checked_div(timing.batch_size);
        self.summary.compute += share.unwrap_or_default();
        self.summary.queue += timing.started.since(timing.arrived);
    }

    /// Gives out the last answer to the item whose turn it was.
    #[inline]
    fn give(&mut self, id: String, window: Option<WindowPosition>, answer: Answer) {
        let value = self.post_processed(&answer);
        self.events.push_back(Event::Result(ItemResult::new(id, window, answer)));
        self.end_turn(window, value);
    }

    /// Gives out an item's last answer whether or not it is the item's turn, which comes when those before it have been answered.
    fn give_early(&mut self, answer: Answer) {
        let value = self.post_processed(&answer);
        let Some(item) = self.pending.settle(answer.seq, answer.outcome.is_err(), PendingAnswer::Given(value)) else { return };
        let id = std::mem::take(&mut item.id);
        self.events.push_back(Event::Result(ItemResult::new(id, item.window, answer)));
    }

    /// Goes on through the oldest items for as long as these were answered before.
    fn give_kept(&mut self) {
        while let Some(PendingItem { id, window, answer, .. }) = self.pending.pop_answered() {
            match answer {
                PendingAnswer::Ready(answer) => self.give(id, window, *answer),
                PendingAnswer::Given(value) => self.end_turn(window, value),
                PendingAnswer::Waiting => {}
            }
        }
    }

    /// An item has been given out, and so have all before it.
    fn end_turn(&mut self, window: Option<WindowPosition>, value: Option<f32>) {
        self.events.extend(self.pending.take_first_parts().into_iter().map(Event::Result));
        if let (Some(finder), Some(window)) = (&mut self.segments, window) {
            let found = finder.push(value, &window);
            self.events.extend(found.into_iter().map(segment_event));
        }
        self.pass_marks();
    }

    /// Handles an answer that is not its item's last: it goes out if it is the item's turn, and otherwise waits for that.
    fn absorb_part(&mut self, answer: Answer) {
        let is_its_turn = self.options.order == Order::AsReady || answer.seq == self.pending.first_seq();
        let Some(item) = self.pending.get(answer.seq) else { return };
        if is_its_turn {
            self.events.push_back(Event::Result(ItemResult::new(item.id.clone(), item.window, answer)));
        } else {
            self.pending.keep_part(answer);
        }
    }

    /// The output that post-processing looks at.
    fn post_processed(&self, answer: &Answer) -> Option<f32> {
        let post = self.model.loaded.segments.as_ref()?;
        first_value(answer.outcome.as_ref().ok()?, post.output)
    }

    /// Confirms flushes, and the end, once everything before them is answered.
    fn pass_marks(&mut self) {
        while self.marks.front().is_some_and(|mark| mark.seq <= self.pending.first_seq()) {
            let Some(mark) = self.marks.pop_front() else { break };
            if let Some(finder) = &mut self.segments {
                let found = finder.finish(mark.samples);
                self.events.extend(found.into_iter().map(segment_event));
            }
            if let Some(id) = mark.flush {
                self.events.push_back(Event::Flushed { id, items: self.pending.first_seq() });
            }
        }
    }

    fn note_stall(&mut self) {
        let stalled = !self.has_room();
        if stalled && self.stalled.is_none() {
            self.metrics.method.window_stalls.increment(1);
            self.stalled = Some(GaugeGuard::new(&self.metrics.method.windows_stalled));
        } else if !stalled {
            self.stalled = None;
        }
    }

    /// The end, if nothing is left to do.
    fn end(&mut self) -> Option<Result<Event, Fault>> {
        let Input::Ended(fault) = &mut self.input else { return None };
        if !self.pending.is_empty() {
            return None;
        }
        if self.options.ends_at <= clock::now() {
            return Some(self.end_with(StreamEnd::Expired, call_expired()));
        }
        if let Some(fault) = fault.take() {
            let end = if fault.kind() == FaultKind::Unavailable { StreamEnd::Drained } else { StreamEnd::Refused };
            return Some(self.end_with(end, fault));
        }
        self.done = true;
        self.metrics.end = StreamEnd::Finished;
        self.summary.samples = self.intake.samples();
        self.summary.elapsed = clock::now().since(self.opened);
        Some(Ok(Event::Completed(self.summary)))
    }

    /// How the session ends when its time is up or its client is silent; `None` once it may read again.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Option<(StreamEnd, Fault)>> {
        let Self { patience, options, input, pending, heard, slowed, .. } = self;
        let silent = matches!(input, Input::Open) && pending.is_empty() && !*slowed;
        patience.poll(cx, |now| {
            let left = (options.ends_at != Timestamp::NEVER).then(|| options.ends_at.since(clock::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Due::Now(Some((StreamEnd::Expired, call_expired())));
            }
            let mut reads_at = None;
            if *slowed {
                // It is not the client that is silent.
                *heard = now;
                let Some(wait) = options.owes(clock::now()) else { return Due::Now(None) };
                reads_at = Some(now + wait);
            }
            let ends_at = left.map(|left| now + left).into_iter().chain(reads_at).min();
            let idle_at = options.idle_timeout.map(|timeout| (if silent { *heard + timeout } else { now + timeout }, timeout));
            match (idle_at, ends_at) {
                (Some((idle_at, timeout)), _) if idle_at <= now => Due::Now(Some((StreamEnd::Idle, silent_for(timeout)))),
                (Some((idle_at, _)), ends_at) => Due::At(ends_at.map_or(idle_at, |ends_at| ends_at.min(idle_at))),
                (None, Some(ends_at)) => Due::At(ends_at),
                (None, None) => Due::Never,
            }
        })
    }

    /// The next event, not yet handed out: the caller calls [`Session::hand_out`] when it leaves.
    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Fault>>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if self.done {
                return Poll::Ready(None);
            }
            if let Err(fault) = self.take_in(cx) {
                let end = if fault.kind() == FaultKind::Cancelled { StreamEnd::Cancelled } else { StreamEnd::Refused };
                return Poll::Ready(Some(self.end_with(end, fault)));
            }
            let came = self.handle.poll_answers(cx, &mut self.answers).is_ready();
            self.expire_staged();
            let answered = !self.answers.is_empty();
            self.absorb_answers();
            if !self.events.is_empty() {
                continue;
            }
            if let Some(end) = self.end() {
                return Poll::Ready(Some(end));
            }
            if came || answered {
                continue;
            }
            if let Some((end, fault)) = ready!(self.poll_timer(cx)) {
                return Poll::Ready(Some(self.end_with(end, fault)));
            }
        }
    }

    /// Counts what leaves for the client.
    pub(super) fn hand_out(&mut self, event: &mut Event) {
        match event {
            Event::Result(result) => {
                result.age = clock::now().since(result.timing.arrived);
                if result.part.last {
                    self.handle.metrics().item_time.record(result.age);
                } else {
                    self.handle.part_taken(&result.outcome);
                }
                match &result.outcome {
                    Ok(outputs) => {
                        self.summary.ok += u64::from(result.part.last);
                        self.metrics.method.bytes_out.increment(data_bytes(outputs) as u64);
                    }
                    Err(fault) => {
                        self.summary.errors += 1;
                        self.metrics.method.fault(fault.kind()).increment(1);
                    }
                }
            }
            // The summary may have waited along with the results that it counts.
            Event::Completed(summary) => (summary.ok, summary.errors) = (self.summary.ok, self.summary.errors),
            _ => {}
        }
    }

    /// Counts a result that its client will not get.
    pub(super) fn skipped(&self, result: &ItemResult) {
        self.metrics.method.results_skipped.increment(1);
        if !result.part.last {
            self.handle.part_taken(&result.outcome);
        }
    }

    fn end_with(&mut self, end: StreamEnd, fault: Fault) -> Result<Event, Fault> {
        self.done = true;
        self.metrics.fault(end, &fault);
        Err(fault)
    }
}

impl<I> Stream for Session<I>
where
    I: Stream<Item = Result<Inbound, Fault>> + Unpin,
{
    type Item = Result<Event, Fault>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let mut event = ready!(this.poll_event(cx));
        if let Some(Ok(event)) = &mut event {
            this.hand_out(event);
        }
        Poll::Ready(event)
    }
}

fn segment_event(event: SegmentEvent) -> Event {
    match event {
        SegmentEvent::Started { index, start_sample } => Event::SegmentStarted { index, start_sample },
        SegmentEvent::Ended(segment) => Event::Segment(segment),
    }
}

fn first_value(outputs: &ItemOutputs, output: usize) -> Option<f32> {
    outputs.get(output)?.iter_f32()?.next()
}
