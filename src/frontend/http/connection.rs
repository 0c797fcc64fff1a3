//! One connection: hyper's HTTP/1.1 on a socket that is watched, so that a client that keeps it waiting is told, or cut off.
//!
//! Knows the transport and the clock, and neither paths nor models. hyper has one timer for the head of a request and for the
//! silence before it, none for a client that does not read, and refuses a head without a word. So socket and service note in a
//! [`Progress`] what the client is to do next, and the connection's task has the timer. All of them run in that one task.
//!
//! ```text
//!            first byte              head complete
//!  Request ────────────► Head ────────────────────► Nothing ── response over ──► Request
//!  idle_timeout:         header_timeout: 408        the server's turn
//!  closed                header_bytes_max: 431
//!
//!  Reader, whenever a write has to wait: unread_timeout, cut off
//!  Nothing, while a body arrives without any content: 400, see FRAMING_BYTES_MAX
//!  Request and Head, at a line that ends with a line feed alone: 400
//!  Rest, when a response is over before its request is: hyper reads what is there and closes, or goes on
//! ```

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body, http::StatusCode};
use bytes::Bytes;
use hyper::{
    body::{Body as _, Frame, Incoming, SizeHint},
    server::conn::http1,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tower::ServiceExt as _;

use super::{error::Refusal, lines::Lines};
use crate::{
    connections::{Call, Calls, Connection},
    domain::{Fault, FaultKind},
    frontend::{Account, ending::EndingBody, linger::Lingering, listener::Shutdown, web::Guarded},
};

/// hyper's own buffer. It and hyper's limit of the head are above ours, so that the refusal of a longer head is ours too; only
/// requests that are sent before the last one is answered can get beyond it.
const BUFFER_BYTES_MIN: usize = 64 << 10;

/// What may arrive of a body beside its content before more content comes. hyper reads the size of a chunk for as long as it goes on, and zeros
/// in front of a number go on for ever.
const FRAMING_BYTES_MAX: usize = 16 << 10;

/// Bytes around the content for each of its bytes: a chunk of one byte has five, and more if its size is written with zeros in front.
const FRAMING_BYTES_PER_BYTE: usize = 16;

/// Time to send a refusal in, which the socket's buffer takes at once unless the client has not read for long.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a client may take over what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of a request's head.
    pub(super) header_bytes_max: usize,
    /// For the head of a request, and for the first byte of the first one.
    pub(super) header_timeout: Duration,
    /// For the first byte of another request.
    pub(super) idle_timeout: Duration,
    /// To take anything of a response.
    pub(super) unread_timeout: Duration,
}

impl Limits {
    /// hyper's own buffer.
    fn buffer_bytes(&self) -> usize {
        BUFFER_BYTES_MIN.max(2 * self.header_bytes_max)
    }

    const fn of(&self, awaited: Awaited) -> Option<Duration> {
        match awaited {
            Awaited::Nothing => None,
            Awaited::Request | Awaited::Rest => Some(self.idle_timeout),
            Awaited::First | Awaited::Head => Some(self.header_timeout),
            Awaited::Reader => Some(self.unread_timeout),
        }
    }
}

/// Serves the requests of a connection until either side ends it.
pub(super) async fn converse(
    stream: TcpStream,
    place: Connection,
    router: Guarded<Router>,
    limits: Limits,
    account: Account,
    shutdown: Shutdown,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    let progress = Arc::new(Progress::new(&limits, place.calls()));
    let socket = Watched { stream: Lingering::new(stream), progress: Arc::clone(&progress) };
    let (begins, ends) = (Arc::clone(&progress), Arc::clone(&progress));
    let service = router
        .map_request(move |mut request: http::Request<Incoming>| {
            begins.note_request(request.body().is_end_stream());
            request.extensions_mut().insert(account.clone());
            request.map(|body| RequestBody { body, progress: Arc::clone(&begins) })
        })
        .map_response(move |response: http::Response<Body>| {
            let progress = Arc::clone(&ends);
            // The beginning of the wait for another request.
            response.map(|body| EndingBody::new(body, move || progress.note_response_over()))
        });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_header_size(limits.header_bytes_max + 1)
        .max_buf_size(limits.buffer_bytes());
    let mut connection = builder.serve_connection(TokioIo::new(socket), TowerToHyperService::new(service));
    let mut patience = Patience::new(limits);
    let go_away = shutdown.go_away();
    let mut leaves = false;
    let lapsed = loop {
        let polled = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Err(ended)),
            Poll::Pending => patience.poll_lapse(&progress, cx).map(Ok),
        });
        tokio::select! {
            lapsed = polled => break lapsed,
            () = shutdown.aborted().cancelled() => return,
            () = go_away.cancelled(), if !leaves => {
                leaves = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            // Without a request in hand there is nothing to be said.
            _ = place.asked_to_leave(None), if !leaves => {
                if place.is_idle() {
                    return;
                }
                leaves = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    match lapsed {
        Ok(lapse) => {
            if let Some(refusal) = lapse.refusal(&limits) {
                refuse(connection.into_parts().io.into_inner(), &refusal).await;
            }
        }
        Err(Err(error)) => tracing::debug!(%error, "a connection broke off"),
        Err(Ok(())) => {}
    }
}

/// Says why and closes; no response has begun, so nothing else is to be said before.
async fn refuse(mut socket: Watched, refusal: &Refusal) {
    let saying = async {
        socket.write_all(&refusal.to_http1()).await?;
        socket.shutdown().await
    };
    if let Ok(Err(error)) = timeout(REFUSAL_TIMEOUT, saying).await {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// What is waited for that the client has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// It is the server's turn, or the request's body is awaited by who reads it.
    Nothing,
    /// The beginning of the first request.
    First,
    /// The beginning of another one.
    Request,
    /// The rest of a request's head.
    Head,
    /// The rest of a request that has been answered.
    Rest,
    /// Room to write into.
    Reader,
}

impl Awaited {
    /// Whether what comes next belongs to the head of a request.
    const fn is_head(self) -> bool {
        matches!(self, Self::First | Self::Request | Self::Head)
    }
}

/// What the client has kept the server waiting for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lapse {
    Waited(Awaited),
    HeadTooLarge,
    BareLineFeed,
    BodyWithoutContent,
}

impl Lapse {
    /// What it is told; nothing if it has asked for nothing, or would not hear it.
    fn refusal(self, limits: &Limits) -> Option<Refusal> {
        match self {
            Self::Waited(Awaited::Head) => {
                let seconds = limits.header_timeout.as_secs();
                let message =
                    format!("the head of the request did not arrive within the {seconds} s that http.header_timeout_s allows");
                let fault = Fault::new(FaultKind::Expired, message).with_limit("http.header_timeout_s", seconds);
                Some(Refusal::with_status(fault, StatusCode::REQUEST_TIMEOUT))
            }
            Self::HeadTooLarge => {
                let bytes = limits.header_bytes_max;
                let message =
                    format!("the head of the request is larger than the {bytes} bytes that http.max_header_bytes allows");
                let fault = Fault::new(FaultKind::TooLarge, message).with_limit("http.max_header_bytes", bytes as u64);
                Some(Refusal::with_status(fault, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE))
            }
            Self::BareLineFeed => {
                let message =
                    "a line of the request's head ends with a line feed alone; end each with a carriage return and a line feed";
                Some(Refusal::from(Fault::invalid("head", message)))
            }
            Self::BodyWithoutContent => {
                let message = format!(
                    "more than {FRAMING_BYTES_MAX} bytes of the body arrived without any content, as if a chunk's size had no end"
                );
                Some(Refusal::from(Fault::invalid("body", message)))
            }
            Self::Waited(Awaited::Nothing | Awaited::First | Awaited::Request | Awaited::Rest | Awaited::Reader) => None,
        }
    }
}

/// How far the client has come.
struct Progress {
    header_bytes_max: usize,
    calls: Calls,
    state: Mutex<State>,
}

struct State {
    awaited: Awaited,
    /// A write has to wait.
    blocked: bool,
    /// Bytes of the head that have been read so far.
    head_bytes: usize,
    /// Its lines, if it is known to begin with the bytes that are read next.
    lines: Option<Lines>,
    /// One of them ends with a line feed alone.
    ends_bare: bool,
    /// Bytes that came after the head and are no content of the request, as far as is known: perhaps of the next one.
    surplus: usize,
    /// Bytes of the body that have been read so far and were no content, as far as is known; and those of the last read.
    framing_bytes: usize,
    last_bytes: usize,
    /// The former are too many.
    is_endless: bool,
    /// The request's body has been read to its end.
    request_over: bool,
    /// Goes up with everything that the client does in time.
    turns: u64,
    /// The request that is being answered.
    call: Option<Call>,
}

impl Progress {
    fn new(limits: &Limits, calls: Calls) -> Self {
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
        };
        Self { header_bytes_max: limits.header_bytes_max, calls, state: Mutex::new(state) }
    }

    /// Bytes that may be read now; `None` if only the body's own limit counts.
    fn head_room(&self) -> Option<usize> {
        let state = self.state.lock();
        state.awaited.is_head().then(|| self.header_bytes_max.saturating_sub(state.head_bytes))
    }

    /// Whether these bytes of a head may go on to hyper. They always may once a request was sent before the last one was answered: where
    /// its head began is not known, so neither is where it ends.
    fn note_head(&self, bytes: &[u8]) -> bool {
        let state = &mut *self.state.lock();
        if state.awaited != Awaited::Head && state.surplus > 0 {
            state.lines = None;
        }
        state.ends_bare |= state.lines.as_mut().is_some_and(|lines| lines.end_bare(bytes));
        !state.ends_bare
    }

    fn note_read(&self, bytes: usize) {
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

    fn note_write(&self, waits: bool) {
        let mut state = self.state.lock();
        if state.blocked && !waits {
            state.turns += 1;
        }
        state.blocked = waits;
    }

    fn note_request(&self, is_over: bool) {
        let mut state = self.state.lock();
        state.awaited = Awaited::Nothing;
        (state.head_bytes, state.framing_bytes, state.last_bytes) = (0, 0, 0);
        if let Some(lines) = &mut state.lines {
            // A head that was not seen has come with an earlier one, and others may have as well.
            state.surplus = std::mem::take(lines).beyond().unwrap_or(state.surplus);
        }
        state.request_over = is_over;
        state.turns += 1;
        state.call = Some(self.calls.begin());
    }

    fn note_content(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.surplus = state.surplus.saturating_sub(bytes);
        state.framing_bytes = state.framing_bytes.saturating_sub(bytes.saturating_mul(FRAMING_BYTES_PER_BYTE));
    }

    fn note_request_over(&self) {
        self.state.lock().request_over = true;
    }

    fn note_response_over(&self) {
        let mut state = self.state.lock();
        state.awaited = if state.request_over { Awaited::Request } else { Awaited::Rest };
        state.turns += 1;
        state.call = None;
    }

    /// What is waited for, and since how many turns.
    fn look(&self) -> (Awaited, u64) {
        let state = self.state.lock();
        (if state.blocked { Awaited::Reader } else { state.awaited }, state.turns)
    }

    /// Whether a head is not over yet after as many bytes as are allowed. Asked when hyper has looked at what was read.
    fn head_is_too_large(&self) -> bool {
        let state = self.state.lock();
        state.awaited == Awaited::Head && state.head_bytes >= self.header_bytes_max
    }

    /// Whether a head was kept from hyper because of how a line of it ends.
    fn head_ends_bare(&self) -> bool {
        self.state.lock().ends_bare
    }

    /// Whether more of a body may be read. hyper asks for more when it has looked at all that it has, and has handed on all content but that
    /// of the last read.
    fn body_goes_on(&self) -> bool {
        let mut state = self.state.lock();
        let is_awaited = state.awaited == Awaited::Nothing && !state.request_over;
        state.is_endless |= is_awaited && state.framing_bytes.saturating_sub(state.last_bytes) > FRAMING_BYTES_MAX;
        !state.is_endless
    }

    fn body_is_endless(&self) -> bool {
        self.state.lock().is_endless
    }
}

/// The connection's timer.
struct Patience {
    limits: Limits,
    seen: (Awaited, u64),
    since: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn new(limits: Limits) -> Self {
        Self { limits, seen: (Awaited::First, 0), since: Instant::now(), timer: None }
    }

    /// `Ready` when the client has had its time.
    fn poll_lapse(&mut self, progress: &Progress, cx: &mut Context<'_>) -> Poll<Lapse> {
        if progress.head_is_too_large() {
            return Poll::Ready(Lapse::HeadTooLarge);
        }
        if progress.head_ends_bare() {
            return Poll::Ready(Lapse::BareLineFeed);
        }
        if progress.body_is_endless() {
            return Poll::Ready(Lapse::BodyWithoutContent);
        }
        let seen = progress.look();
        if self.seen != seen {
            self.seen = seen;
            self.since = Instant::now();
        }
        let Some(limit) = self.limits.of(seen.0) else {
            self.timer.take_if(|timer| timer.is_elapsed());
            return Poll::Pending;
        };
        let ends_at = self.since + limit;
        loop {
            if ends_at <= Instant::now() {
                return Poll::Ready(Lapse::Waited(seen.0));
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(ends_at)));
            // An earlier timer stays: when it fires, the loop sets it anew. So progress costs no timer operation.
            if timer.is_elapsed() || timer.deadline() > ends_at {
                timer.as_mut().reset(ends_at);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }
}

/// A socket that notes what comes and goes.
struct Watched {
    stream: Lingering,
    progress: Arc<Progress>,
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, progress } = self.get_mut();
        let before = buffer.filled().len();
        match progress.head_room() {
            // The task, which polls this, looks at the size of the head next and gives the connection up; or hyper has the whole head, and
            // its service, which is called later in the same turn, will note it. Then the rest is read in the next turn.
            Some(0) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Some(room) => {
                ready!(Pin::new(&mut stream.take(room as u64)).poll_read(cx, buffer))?;
                if !progress.note_head(&buffer.filled()[before..]) {
                    buffer.set_filled(before);
                    return Poll::Pending;
                }
            }
            None if progress.body_goes_on() => ready!(Pin::new(stream).poll_read(cx, buffer))?,
            None => return Poll::Pending,
        }
        progress.note_read(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, progress } = self.get_mut();
        let written = Pin::new(stream).poll_write(cx, bytes);
        progress.note_write(written.is_pending());
        written
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Self { stream, progress } = self.get_mut();
        let written = Pin::new(stream).poll_write_vectored(cx, slices);
        progress.note_write(written.is_pending());
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The body of a request, of which is noted whether it was read to its end.
struct RequestBody {
    body: Incoming,
    progress: Arc<Progress>,
}

impl hyper::body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.progress.note_content(data.len());
        }
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.progress.note_request_over();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        header_bytes_max: 1_024,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(120),
        unread_timeout: Duration::from_secs(300),
    };

    struct Bench {
        progress: Progress,
        patience: Patience,
    }

    impl Bench {
        fn new() -> Self {
            Self { progress: Progress::new(&LIMITS, Calls::default()), patience: Patience::new(LIMITS) }
        }

        /// Whether nothing lapses within `seconds`.
        async fn lasts(&mut self, seconds: u64) -> bool {
            let lapse = poll_fn(|cx| self.patience.poll_lapse(&self.progress, cx));
            timeout(Duration::from_secs(seconds), lapse).await.is_err()
        }

        /// What lapses, and after how many seconds.
        async fn lapse(&mut self) -> (Lapse, u64) {
            let begun = Instant::now();
            let lapse = poll_fn(|cx| self.patience.poll_lapse(&self.progress, cx)).await;
            (lapse, begun.elapsed().as_secs())
        }

        fn answer(&self) {
            self.progress.note_request(true);
            self.progress.note_response_over();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_connects_and_says_nothing_is_closed_without_a_word() {
        let (lapse, seconds) = Bench::new().lapse().await;
        assert_eq!((lapse, seconds), (Lapse::Waited(Awaited::First), 10));
        assert!(lapse.refusal(&LIMITS).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_has_its_time_once() {
        let mut bench = Bench::new();
        bench.progress.note_read(1);
        for _ in 0..3 {
            assert!(bench.lasts(3).await);
            bench.progress.note_read(1);
        }
        let (lapse, seconds) = bench.lapse().await;
        assert_eq!((lapse, seconds), (Lapse::Waited(Awaited::Head), 1));
        let refusal = lapse.refusal(&LIMITS).expect("it is told");
        assert_eq!(refusal.fault.limit().expect("a limit").name, "http.header_timeout_s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_takes_as_long_as_it_takes_and_silence_after_it_does_not() {
        let mut bench = Bench::new();
        bench.progress.note_read(100);
        bench.progress.note_request(true);
        assert!(bench.lasts(100_000).await);
        bench.progress.note_response_over();
        let (lapse, seconds) = bench.lapse().await;
        assert_eq!((lapse, seconds), (Lapse::Waited(Awaited::Request), 120));
        assert!(lapse.refusal(&LIMITS).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn each_request_has_its_own_time_and_length() {
        let mut bench = Bench::new();
        for _ in 0..20 {
            bench.progress.note_read(LIMITS.header_bytes_max - 1);
            assert!(bench.lasts(9).await);
            bench.answer();
            assert!(bench.lasts(119).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_too_large_once_it_fills_the_limit_and_goes_on() {
        let mut bench = Bench::new();
        bench.progress.note_read(1_000);
        assert_eq!(bench.progress.head_room(), Some(24));
        assert!(bench.lasts(1).await);
        bench.progress.note_read(24);
        assert_eq!(bench.progress.head_room(), Some(0));
        let (lapse, _) = bench.lapse().await;
        assert_eq!(lapse, Lapse::HeadTooLarge);
        assert_eq!(lapse.refusal(&LIMITS).expect("it is told").fault.limit().expect("a limit").name, "http.max_header_bytes");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_cut_off_and_one_that_is_slow_is_not() {
        let mut bench = Bench::new();
        bench.progress.note_read(10);
        bench.progress.note_request(true);
        for _ in 0..10 {
            bench.progress.note_write(true);
            assert!(bench.lasts(299).await);
            bench.progress.note_write(false);
        }
        bench.progress.note_write(true);
        let (lapse, seconds) = bench.lapse().await;
        assert_eq!((lapse, seconds), (Lapse::Waited(Awaited::Reader), 300));
        assert!(lapse.refusal(&LIMITS).is_none());
    }

    #[test]
    fn the_lines_of_a_head_are_looked_at_if_it_is_known_where_it_begins() {
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

    #[tokio::test(start_paused = true)]
    async fn a_body_without_content_ends_and_one_in_many_small_chunks_does_not() {
        let mut bench = Bench::new();
        bench.progress.note_read(100);
        bench.progress.note_request(false);
        for _ in 0..100_000 {
            assert!(bench.progress.body_goes_on());
            bench.progress.note_read(6);
            bench.progress.note_content(1);
        }
        bench.progress.note_read(FRAMING_BYTES_MAX);
        assert!(bench.progress.body_goes_on(), "it may all be content on its way");
        bench.progress.note_read(100_000);
        assert!(bench.progress.body_goes_on());
        bench.progress.note_read(1);
        assert!(!bench.progress.body_goes_on());
        let (lapse, seconds) = bench.lapse().await;
        assert_eq!((lapse, seconds), (Lapse::BodyWithoutContent, 0));
        assert_eq!(lapse.refusal(&LIMITS).expect("it is told").fault.field(), Some("body"));

        let mut other = Bench::new();
        other.progress.note_request(false);
        other.progress.note_request_over();
        other.progress.note_read(1 << 20);
        other.progress.note_read(1 << 20);
        assert!(other.progress.body_goes_on() && other.lasts(1).await, "what follows a request is not its body");
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_request_that_was_answered_early_is_no_head() {
        let mut bench = Bench::new();
        bench.progress.note_read(10);
        bench.progress.note_request(false);
        bench.progress.note_response_over();
        assert_eq!(bench.progress.head_room(), None);
        bench.progress.note_read(1 << 20);
        assert_eq!(bench.lapse().await, (Lapse::Waited(Awaited::Rest), 120));
    }
}
