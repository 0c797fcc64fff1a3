//! How far a connection's client has got with its request, going by its bytes and its service.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    limits::{Awaited, FRAMING_BYTES_MAX, Limits},
    lines::Lines,
};
use crate::{
    connections::{Call, Calls},
    telemetry::{Gauge, GaugeGuard},
};

/// Bytes around the content, for each byte of it: a one-byte chunk has five, and more if its size is written with leading zeros.
const FRAMING_BYTES_PER_BYTE: usize = 16;

/// How far the client has got.
pub(super) struct Progress {
    header_bytes_max: usize,
    calls: Calls,
    state: Mutex<State>,
}

struct State {
    awaited: Awaited,
    /// A write has to wait.
    blocked: bool,
    /// Bytes of the head read so far.
    head_bytes: usize,
    /// The lines of the head, if the next bytes to be read are known to begin one.
    lines: Option<Lines>,
    /// One of them ends with a line feed alone.
    ends_bare: bool,
    /// Bytes that came after the head and, as far as is known, are not content of the request: perhaps of the next one.
    surplus: usize,
    /// Bytes of the body read so far that, as far as is known, were not content; then the bytes of the last read.
    framing_bytes: usize,
    last_bytes: usize,
    /// There are too many framing bytes.
    is_endless: bool,
    /// The request's body has been read to its end.
    request_over: bool,
    /// Grows with everything the client does in time.
    turns: u64,
    /// The request now being answered.
    call: Option<Call>,
    /// What counts clients that do not read the answer to the last request, once its handler has said so.
    unread_gauge: Option<Gauge>,
    /// There for as long as this client counts as one of them.
    unread: Option<GaugeGuard>,
}

impl State {
    /// Counts the client, or no longer does.
    fn count_unread(&mut self) {
        if !self.blocked {
            self.unread = None;
        } else if self.unread.is_none() {
            self.unread = self.unread_gauge.as_ref().map(GaugeGuard::new);
        }
    }
}

/// The client of a request, for whoever handles that.
#[derive(Clone)]
pub(crate) struct Reader(Arc<Progress>);

impl Reader {
    pub(super) const fn new(progress: Arc<Progress>) -> Self {
        Self(progress)
    }

    /// From now on this counts the client whenever it does not read.
    pub(crate) fn count_unread(&self, gauge: &Gauge) {
        let mut state = self.0.state.lock();
        (state.unread_gauge, state.unread) = (Some(gauge.clone()), None);
        state.count_unread();
    }
}

impl Progress {
    pub(super) fn new(limits: &Limits, calls: Calls) -> Self {
        let state = State {
            awaited: Awaited::First,
            blocked: false,
            head_bytes: 0,
            lines: Some(Lines::default()),
            ends_bare: false,
            surplus: 0,
            framing_bytes: 0,
            last_bytes: 0,
            is_endless: false,
            request_over: false,
            turns: 0,
            call: None,
            unread_gauge: None,
            unread: None,
        };
        Self { header_bytes_max: limits.header_bytes_max, calls, state: Mutex::new(state) }
    }

    /// How many bytes may be read now; `None` if only the body's own limit applies.
    pub(super) fn head_room(&self) -> Option<usize> {
        let state = self.state.lock();
        state.awaited.is_head().then(|| self.header_bytes_max.saturating_sub(state.head_bytes))
    }

    /// Whether these bytes of a head may go on to hyper. They always may once a request was sent before the last one was
    /// answered: nobody knows where its head began, so nobody knows where it ends.
    pub(super) fn note_head(&self, bytes: &[u8]) -> bool {
        let state = &mut *self.state.lock();
        if state.awaited != Awaited::Head && state.surplus > 0 {
            state.lines = None;
        }
        state.ends_bare |= state.lines.as_mut().is_some_and(|lines| lines.end_bare(bytes));
        !state.ends_bare
    }

    pub(super) fn note_read(&self, bytes: usize) {
        let mut state = self.state.lock();
        if !state.awaited.is_head() || bytes == 0 {
            state.surplus += bytes;
            if !state.request_over {
                state.framing_bytes += bytes;
                state.last_bytes = bytes;
            }
            return;
        }
        if state.awaited != Awaited::Head {
            state.awaited = Awaited::Head;
            state.turns += 1;
        }
        state.head_bytes += bytes;
    }

    pub(super) fn note_write(&self, waits: bool) {
        let mut state = self.state.lock();
        if state.blocked && !waits {
            state.turns += 1;
        }
        if state.blocked != waits {
            state.blocked = waits;
            state.count_unread();
        }
    }

    pub(super) fn note_request(&self, is_over: bool) {
        let mut state = self.state.lock();
        state.awaited = Awaited::Nothing;
        (state.head_bytes, state.framing_bytes, state.last_bytes) = (0, 0, 0);
        if let Some(lines) = &mut state.lines {
            // A head that was not seen came with an earlier one, and others may have too.
            state.surplus = std::mem::take(lines).beyond().unwrap_or(state.surplus);
        }
        state.request_over = is_over;
        state.turns += 1;
        state.call = Some(self.calls.begin());
    }

    pub(super) fn note_content(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.surplus = state.surplus.saturating_sub(bytes);
        state.framing_bytes = state.framing_bytes.saturating_sub(bytes.saturating_mul(FRAMING_BYTES_PER_BYTE));
    }

    pub(super) fn note_request_over(&self) {
        self.state.lock().request_over = true;
    }

    pub(super) fn note_response_over(&self) {
        let mut state = self.state.lock();
        state.awaited = if state.request_over { Awaited::Request } else { Awaited::Rest };
        state.turns += 1;
        state.call = None;
    }

    /// What the server is waiting for, and how many turns there have been.
    pub(super) fn look(&self) -> (Awaited, u64) {
        let state = self.state.lock();
        (if state.blocked { Awaited::Reader } else { state.awaited }, state.turns)
    }

    /// Whether a head is unfinished after as many bytes as are allowed. Ask after hyper has looked at what was read.
    pub(super) fn head_is_too_large(&self) -> bool {
        let state = self.state.lock();
        state.awaited == Awaited::Head && state.head_bytes >= self.header_bytes_max
    }

    /// Whether a head was kept from hyper because of how a line of it ends.
    pub(super) fn head_ends_bare(&self) -> bool {
        self.state.lock().ends_bare
    }

    /// Whether more of a body may be read. hyper asks for more once it has looked at everything it has, and has passed on all
    /// content except that of the last read.
    pub(super) fn body_goes_on(&self) -> bool {
        let mut state = self.state.lock();
        let is_awaited = state.awaited == Awaited::Nothing && !state.request_over;
        state.is_endless |= is_awaited && state.framing_bytes.saturating_sub(state.last_bytes) > FRAMING_BYTES_MAX;
        !state.is_endless
    }

    pub(super) fn body_is_endless(&self) -> bool {
        self.state.lock().is_endless
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::Telemetry;

    const LIMITS: Limits = Limits {
        header_bytes_max: 1_024,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(120),
        unread_timeout: Duration::from_secs(300),
    };

    #[test]
    fn a_client_that_does_not_read_counts_under_the_call_that_it_made() {
        let telemetry = Telemetry::new();
        let [infer, generate] = ["http_infer", "http_generate"].map(|method| telemetry.method(method).streams_unread);
        let unread = || {
            let text = telemetry.render();
            ["http_infer", "http_generate"]
                .map(|method| text.contains(&format!("tidemill_streams_unread{{method=\"{method}\"}} 1\n")))
        };
        let progress = Arc::new(Progress::new(&LIMITS, Calls::default()));
        let reader = Reader::new(Arc::clone(&progress));
        progress.note_write(true);
        assert_eq!(unread(), [false, false], "nobody knows what it is");
        reader.count_unread(&infer);
        assert_eq!(unread(), [true, false]);
        progress.note_write(true);
        progress.note_response_over();
        assert_eq!(unread(), [true, false], "the last of the answer waits");
        progress.note_write(false);
        assert_eq!(unread(), [false, false]);
        reader.count_unread(&generate);
        progress.note_write(true);
        assert_eq!(unread(), [false, true]);
        drop((progress, reader));
        assert_eq!(unread(), [false, false]);
    }

    #[test]
    fn the_lines_of_a_head_are_checked_if_its_beginning_is_known() {
        let head = b"POST / HTTP/1.1\r\n\r\n";
        let read = |progress: &Progress, bytes: &[u8]| {
            let goes_on = progress.note_head(bytes);
            progress.note_read(bytes.len());
            goes_on
        };
        let answered = |progress: &Progress, content: usize| {
            progress.note_request(false);
            progress.note_content(content);
            progress.note_request_over();
            progress.note_response_over();
        };
        let one_by_one = Progress::new(&LIMITS, Calls::default());
        assert!(read(&one_by_one, &[&head[..], b"{\n}"].concat()));
        answered(&one_by_one, 3);
        assert!(read(&one_by_one, &head[..9]) && read(&one_by_one, &head[9..]));
        one_by_one.note_request(false);
        one_by_one.note_read(2);
        one_by_one.note_content(2);
        one_by_one.note_response_over();
        assert!(!read(&one_by_one, b"GET / HTTP/1.1\n"));
        assert!(one_by_one.head_ends_bare());

        let at_once = Progress::new(&LIMITS, Calls::default());
        assert!(read(&at_once, &[&head[..], b"{\n}", &head[..17]].concat()));
        answered(&at_once, 3);
        assert!(read(&at_once, b"\r\n{\n}"), "the end of a head, and a body");
        answered(&at_once, 3);
        assert!(read(&at_once, b"GET / HTTP/1.1\n") && !at_once.head_ends_bare());

        let cut = Progress::new(&LIMITS, Calls::default());
        assert!(read(&cut, &[&head[..], head, head, &head[..16]].concat()));
        for _ in 0..3 {
            answered(&cut, 0);
        }
        assert!(read(&cut, &head[16..]), "the fourth head was cut within the end of a line");
    }
}
