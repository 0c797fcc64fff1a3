//! A socket between its connection and its wire: frames in, frames out, and the clocks of both.
//!
//! # READING
//! No more is read than the wire asks for, so that a wire that does not read holds its client back; of what comes before that, at most
//! [`READ_BYTES`] wait here. Pings and closes that come first are seen all the same, and so is the end of the connection.
//!
//! # WRITING
//! Small messages are gathered until the wire flushes, or `websocket.write_buffer_bytes` of them wait. A large one waits alone, is charged to the
//! connection, and is written from where it lies. A client that takes nothing for `session.unread_timeout_s` is given up.
//!
//! # CLOCKS
//! A client that is silent is asked whether it is there, and has to say something; a message that has begun has to arrive. Both clocks run only
//! while the server waits for the client.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Control, Data, OpCode},
};

use super::{
    codec::{Arrived, Broken, Incoming},
    frame::{AWAY, Frame, NORMAL, POLICY, REASON_BYTES_MAX, SocketError},
};
use crate::{
    config::WebSocketConfig,
    domain::{Fault, FaultKind},
    patience::{Due, Moment, Patience},
    transport::{Account, Charge, http1::Carrier},
};

/// What is read at once, and kept for a wire that does not ask for it.
const READ_BYTES: usize = 4 << 10;

/// Messages up to this length are copied, so that many leave in one write.
const COPIED_BYTES_MAX: usize = 16 << 10;

/// Room that is kept while nothing waits to be written.
const SPARE_BYTES_MAX: usize = 4 << 10;

/// Pings of a client in a second.
const PINGS_PER_S_MAX: u32 = 20;

/// The clocks of a socket, and how much may wait on it.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) config: WebSocketConfig,
    /// For a message that has begun, and the key that sets it.
    pub(super) message_timeout: Duration,
    pub(super) message_timeout_key: &'static str,
    /// For a client to take anything.
    pub(super) unread_timeout: Duration,
}

/// One socket. See the module's text.
pub(super) struct Line {
    io: Carrier,
    rules: Arc<Rules>,
    account: Account,
    incoming: Incoming,
    /// What was read, of which the first `used` bytes have been taken.
    read: Vec<u8>,
    used: usize,
    /// For the last message, as long as its wire may be using it.
    handed_on: Option<Charge>,
    clocks: Clocks,
    pings: Pings,
    out: BytesMut,
    large: Option<(Bytes, Charge)>,
    /// What the client's last ping said, to be sent back.
    pong: Option<Bytes>,
    asks: bool,
    /// Why it carries nothing more, with the code of the close that says so.
    refused: Option<Broken>,
    /// The refusal has been handed to the wire.
    said: bool,
    /// Nothing can be read any more: the client has closed, or what it sends makes no sense.
    is_deaf: bool,
    end: End,
}

/// Which side has ended the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// The client has closed, with this code.
    ByClient(Option<u16>),
    /// A close is among what waits to be written, or has been.
    ByUs,
    /// The connection has ended.
    Broken,
}

#[derive(Debug)]
struct Clocks {
    patience: Patience,
    /// The client has nothing for us, and we wait for it.
    waits: bool,
    /// When it last sent anything, or we began to wait.
    heard: Moment,
    asked: Option<Moment>,
    /// When a message began that has not arrived yet.
    begun: Option<Moment>,
    /// Since when nothing can be written.
    blocked: Option<Moment>,
}

#[derive(Debug)]
struct Pings {
    since: Moment,
    count: u32,
}

/// What a clock asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lapse {
    Ask,
    Silent,
    Late,
    Unread,
}

impl Line {
    pub(super) fn new(io: Carrier, rules: Arc<Rules>, account: Account) -> Self {
        let now = Moment::now();
        let incoming = Incoming::new(&rules.config);
        let clocks = Clocks { patience: Patience::new(), waits: false, heard: now, asked: None, begun: None, blocked: None };
        Self {
            io,
            rules,
            account,
            incoming,
            read: Vec::new(),
            used: 0,
            handed_on: None,
            clocks,
            pings: Pings { since: now, count: 0 },
            out: BytesMut::new(),
            large: None,
            pong: None,
            asks: false,
            refused: None,
            said: false,
            is_deaf: false,
            end: End::Open,
        }
    }

    /// Whether the client has gone, or closed its side.
    const fn has_left(&self) -> bool {
        matches!(self.end, End::ByClient(_) | End::Broken)
    }

    /// Whether the wire is of no more use: the client has left, or was refused and the wire does not read.
    pub(super) fn must_end(&self) -> bool {
        self.has_left() || self.is_given_up() || (self.refused.is_some() && !self.said)
    }

    /// Whether there is no use in writing more.
    pub(super) fn is_given_up(&self) -> bool {
        self.end == End::Broken || self.refused.as_ref().is_some_and(|refused| is_unread(&refused.fault))
    }

    // ---- Reading --------------------------------------------------------------------------------------------------------

    /// The next message for the wire.
    pub(super) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, SocketError>>> {
        // More is asked for, so the last message has been used up.
        self.handed_on = None;
        loop {
            if let Some(refused) = self.refused.as_ref().filter(|_| !self.said) {
                self.said = true;
                return Poll::Ready(Some(Err(SocketError::Refused(refused.fault.clone()))));
            }
            if self.said || self.end != End::Open {
                return Poll::Ready(None);
            }
            if self.used == self.read.len() {
                ready!(self.poll_read(cx));
                if self.end == End::Broken {
                    return Poll::Ready(Some(Err(SocketError::Broken)));
                }
            }
            if let Some(frame) = self.take() {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
    }

    /// Sees to pings and closes that the wire has not asked for, as far as nothing else comes before them.
    pub(super) fn poll_ahead(&mut self, cx: &mut Context<'_>) {
        while self.end == End::Open && self.refused.is_none() {
            match self.read.get(self.used).copied() {
                Some(next) if !self.incoming.expects_control(next) => return,
                Some(_) => drop(self.take()),
                None if self.poll_read(cx).is_pending() => return,
                None => {}
            }
        }
    }

    /// Takes one frame of what was read, and returns what the wire gets of it.
    fn take(&mut self) -> Option<Frame> {
        let arrived = match self.incoming.take(&mut self.read[self.used..], &self.account) {
            Ok((taken, arrived)) => {
                self.used += taken;
                arrived
            }
            Err(broken) => {
                (self.refused, self.is_deaf) = (Some(broken), true);
                return None;
            }
        };
        let begun = self.clocks.begun.take();
        self.clocks.begun = self.incoming.is_amid().then(|| begun.unwrap_or_else(Moment::now));
        match arrived? {
            Arrived::Text(text, charge) => {
                self.handed_on = Some(charge);
                Some(Frame::Text(text))
            }
            Arrived::Binary(bytes, charge) => {
                self.handed_on = Some(charge);
                Some(Frame::Binary(bytes))
            }
            Arrived::Ping(content) => {
                self.pong = Some(content);
                if let Err(broken) = self.pings.note() {
                    (self.refused, self.is_deaf) = (Some(broken), true);
                }
                None
            }
            Arrived::Pong => None,
            Arrived::Close(code) => {
                (self.end, self.is_deaf) = (End::ByClient(code), true);
                Some(Frame::close(code.unwrap_or(NORMAL), ""))
            }
        }
    }

    /// Reads once more; what was read before has been used up.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.read.resize(READ_BYTES, 0);
        let mut buffer = ReadBuf::new(&mut self.read);
        let read = Pin::new(&mut self.io).poll_read(cx, &mut buffer);
        let filled = buffer.filled().len();
        self.read.truncate(filled);
        self.used = 0;
        let Poll::Ready(read) = read else {
            // Nothing is kept while nothing comes.
            self.read = Vec::new();
            self.clocks.wait();
            return Poll::Pending;
        };
        self.clocks.hear();
        if read.is_err() || filled == 0 {
            self.end = End::Broken;
        }
        Poll::Ready(())
    }

    // ---- Writing --------------------------------------------------------------------------------------------------------

    /// Waits until a message may be written.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.check_open()?;
        if !self.has_room() {
            let written = self.poll_write_out(cx);
            if matches!(written, Poll::Ready(Err(_))) {
                return Poll::Ready(Err(SocketError::Broken));
            }
            if !self.has_room() {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn has_room(&self) -> bool {
        self.large.is_none() && self.out.len() < self.rules.config.write_buffer_bytes
    }

    fn check_open(&self) -> Result<(), SocketError> {
        match &self.refused {
            Some(refused) if is_unread(&refused.fault) => Err(SocketError::Refused(refused.fault.clone())),
            _ if self.end == End::Broken => Err(SocketError::Broken),
            _ => Ok(()),
        }
    }

    /// Takes what is to be written. A close is taken at any time, and is the last.
    pub(super) fn write(&mut self, frame: Frame) -> Result<(), SocketError> {
        self.check_open()?;
        match frame {
            Frame::Close { code, reason } => {
                self.close(code, &reason);
                Ok(())
            }
            _ if self.end == End::ByUs => Err(SocketError::Broken),
            Frame::Text(text) => self.put(Data::Text, text.into()),
            Frame::Binary(bytes) => self.put(Data::Binary, bytes),
        }
    }

    fn put(&mut self, kind: Data, content: Bytes) -> Result<(), SocketError> {
        let charge = if content.len() > COPIED_BYTES_MAX {
            let mut charge = self.account.charge();
            charge.grow(content.len())?;
            Some(charge)
        } else {
            None
        };
        self.head(OpCode::Data(kind), content.len());
        match charge {
            Some(charge) => self.large = Some((content, charge)),
            None => self.out.extend_from_slice(&content),
        }
        Ok(())
    }

    /// The head of a frame, after all that waits.
    fn head(&mut self, opcode: OpCode, bytes: usize) {
        let head = FrameHeader { opcode, ..FrameHeader::default() };
        // Writing into memory does not fail.
        let _ = head.format(bytes as u64, &mut (&mut self.out).writer());
    }

    /// Closes, unless that has been done. What the client did wrong counts for more than what the wire says about it, and its own close is
    /// answered with the same code.
    pub(super) fn close(&mut self, code: u16, reason: &str) {
        let code = match (&self.refused, self.end) {
            (_, End::ByUs | End::Broken) => return,
            (_, End::ByClient(own)) => own.unwrap_or(code),
            (Some(refused), End::Open) => refused.code,
            (None, End::Open) => code,
        };
        self.end = End::ByUs;
        let reason = &reason.as_bytes()[..reason.floor_char_boundary(REASON_BYTES_MAX)];
        if let Some((large, charge)) = self.large.take() {
            // It has begun, so it goes first. That happens only to a client that has to go, and it has little time.
            self.out.extend_from_slice(&large);
            self.handed_on = Some(charge);
        }
        self.head(OpCode::Control(Control::Close), 2 + reason.len());
        self.out.put_u16(code);
        self.out.extend_from_slice(reason);
    }

    /// The same for a wire that has ended without a word.
    pub(super) fn close_by_default(&mut self) {
        match self.refused.take() {
            Some(Broken { code, fault }) => self.close(code, fault.message()),
            None => self.close(NORMAL, ""),
        }
    }

    /// Writes all that waits.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SocketError>> {
        self.check_open()?;
        self.poll_write_out(cx).map_err(|_| SocketError::Broken)
    }

    /// Whether nothing waits to be written.
    pub(super) fn is_flushed(&self) -> bool {
        self.out.is_empty() && self.large.is_none()
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = self.poll_written(cx);
        match &written {
            Poll::Pending => {
                self.clocks.blocked.get_or_insert_with(Moment::now);
            }
            Poll::Ready(Ok(())) => self.clocks.blocked = None,
            Poll::Ready(Err(_)) => self.end = End::Broken,
        }
        written
    }

    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            self.add_controls();
            let waiting = match &self.large {
                _ if !self.out.is_empty() => &*self.out,
                Some((large, _)) => large,
                None => break,
            };
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.clocks.blocked = None;
            self.note_written(written);
        }
        if self.out.capacity() > SPARE_BYTES_MAX {
            self.out = BytesMut::new();
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn note_written(&mut self, written: usize) {
        if !self.out.is_empty() {
            self.out.advance(written);
        } else if let Some((large, charge)) = &mut self.large {
            large.advance(written);
            charge.shrink_to(large.len());
            if large.is_empty() {
                self.large = None;
            }
        }
    }

    /// Adds what the socket itself has to say, wherever a frame may begin. Only the latest ping is answered.
    fn add_controls(&mut self) {
        if self.large.is_some() || self.end == End::ByUs || !self.has_room() {
            return;
        }
        if let Some(content) = self.pong.take() {
            self.head(OpCode::Control(Control::Pong), content.len());
            self.out.extend_from_slice(&content);
        }
        if std::mem::take(&mut self.asks) {
            self.head(OpCode::Control(Control::Ping), 0);
        }
    }

    /// Waits for the client's own close, or the end of what it sends; whatever comes before that is dropped.
    pub(super) fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.is_deaf && self.end != End::Broken {
            if self.used == self.read.len() {
                ready!(self.poll_read(cx));
                continue;
            }
            match self.incoming.take(&mut self.read[self.used..], &self.account) {
                Ok((_, Some(Arrived::Close(_)))) | Err(_) => self.is_deaf = true,
                Ok((taken, _)) => self.used += taken,
            }
        }
        Poll::Ready(())
    }

    /// Ends the direction in which the server writes, and waits for a moment for the client to close too.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.io).poll_shutdown(cx).map(|_| ())
    }

    // ---- Clocks ---------------------------------------------------------------------------------------------------------

    /// Sees to all that the wire does not. `Ready` if the wire has something to learn.
    pub(super) fn poll_upkeep(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            self.poll_ahead(cx);
            if (self.pong.is_some() || self.asks) && self.poll_write_out(cx).is_ready() && self.end == End::Broken {
                return Poll::Ready(());
            }
            if self.must_end() {
                return Poll::Ready(());
            }
            let lapse = ready!(self.poll_lapse(cx));
            let fault = match lapse {
                Lapse::Ask => {
                    (self.asks, self.clocks.asked) = (true, Some(Moment::now()));
                    continue;
                }
                Lapse::Silent => self.rules.silent(),
                Lapse::Late => self.rules.late(),
                Lapse::Unread => self.rules.unread(),
            };
            let code = if lapse == Lapse::Silent { AWAY } else { POLICY };
            self.refused = Some(Broken { code, fault });
            return Poll::Ready(());
        }
    }

    fn poll_lapse(&mut self, cx: &mut Context<'_>) -> Poll<Lapse> {
        let is_open = self.refused.is_none() && self.end == End::Open;
        let Self { clocks, rules, .. } = self;
        let Clocks { patience, waits, heard, asked, begun, blocked } = clocks;
        patience.poll(cx, |now| {
            let unread = blocked.map(|since| (since + rules.unread_timeout, Lapse::Unread));
            let late = begun.map(|since| (since + rules.message_timeout, Lapse::Late));
            let silent = match asked {
                Some(since) => (*since + rules.config.pong_timeout(), Lapse::Silent),
                None => (*heard + rules.config.ping_interval(), Lapse::Ask),
            };
            // A question could not be sent while nothing can.
            let silent = Some(silent).filter(|_| blocked.is_none());
            let of_client = [late, silent].into_iter().flatten().filter(|_| *waits && is_open);
            match of_client.chain(unread).min_by_key(|(at, _)| *at) {
                Some((at, lapse)) => Due::at(at, now, || lapse),
                None => Due::Never,
            }
        })
    }
}

impl Clocks {
    fn wait(&mut self) {
        if !self.waits {
            (self.waits, self.heard) = (true, Moment::now());
        }
    }

    fn hear(&mut self) {
        (self.waits, self.asked) = (false, None);
    }
}

impl Pings {
    /// Counts a ping of the client.
    fn note(&mut self) -> Result<(), Broken> {
        let now = Moment::now();
        if now.since(self.since) >= Duration::from_secs(1) {
            *self = Self { since: now, count: 0 };
        }
        self.count += 1;
        if self.count <= PINGS_PER_S_MAX {
            return Ok(());
        }
        let message = format!("more than {PINGS_PER_S_MAX} pings came within a second");
        Err(Broken { code: POLICY, fault: Fault::new(FaultKind::Denied, message).with_field("ping") })
    }
}

const UNREAD_KEY: &str = "session.unread_timeout_s";

/// Whether the fault is that the client took nothing.
pub(super) fn is_unread(fault: &Fault) -> bool {
    fault.limit().is_some_and(|limit| limit.name == UNREAD_KEY)
}

impl Rules {
    fn silent(&self) -> Fault {
        let seconds = self.config.pong_timeout_s;
        let message = format!("the client did not answer a ping within the {seconds} s that websocket.pong_timeout_s allows");
        Fault::new(FaultKind::Cancelled, message).with_limit("websocket.pong_timeout_s", seconds)
    }

    fn late(&self) -> Fault {
        let (seconds, key) = (self.message_timeout.as_secs(), self.message_timeout_key);
        let message = format!("a message was not complete within the {seconds} s that {key} allows");
        Fault::new(FaultKind::Expired, message).with_limit(key, seconds)
    }

    fn unread(&self) -> Fault {
        let seconds = self.unread_timeout.as_secs();
        let message = format!("the client took nothing for the {seconds} s that {UNREAD_KEY} allows");
        Fault::new(FaultKind::Expired, message).with_limit(UNREAD_KEY, seconds)
    }
}
