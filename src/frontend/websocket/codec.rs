//! Frames from bytes: what a client sends, within limits.
//!
//! Pure, apart from the charge for what arrives: bytes in, and what they mean out. No room is made for what is only announced.

use std::io::Cursor;

use bytes::Bytes;
use tokio_tungstenite::tungstenite::{
    Utf8Bytes,
    protocol::frame::{
        FrameHeader,
        coding::{CloseCode, Control, Data, OpCode},
    },
};

use super::frame::{NOT_TEXT, OVERLOADED, POLICY, PROTOCOL, TOO_LARGE};
use crate::{
    config::WebSocketConfig,
    domain::{Fault, FaultKind},
    transport::{Account, Charge, Pieces},
};

/// Longest head of a frame.
const HEAD_BYTES_MAX: usize = 14;
/// Longest content of a ping, a pong or a close.
const CONTROL_BYTES_MAX: usize = 125;

/// What is wrong with what a client sent, and the code of the close that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) code: u16,
    pub(super) fault: Fault,
}

/// Something that has arrived whole.
#[derive(Debug)]
pub(super) enum Arrived {
    /// A text, its charge along with it.
    Text(Utf8Bytes, Charge),
    /// A binary message.
    Binary(Bytes, Charge),
    /// The client wants to know whether the server is there.
    Ping(Bytes),
    /// The client is there.
    Pong,
    /// The client says nothing more; `None` if it does not say why.
    Close(Option<u16>),
}

/// The client's side of a socket, as far as it has arrived.
pub(super) struct Incoming {
    message_bytes_max: usize,
    frame_bytes_max: usize,
    frames_max: usize,
    /// The beginning of a frame's head.
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: usize,
    frame: Option<Begun>,
    control: Vec<u8>,
    message: Option<Message>,
    /// Frames since the message began, those between its own counted in.
    frames: usize,
}

/// A frame whose head has arrived.
struct Begun {
    opcode: OpCode,
    is_final: bool,
    mask: [u8; 4],
    left: usize,
}

/// A message, as far as it has arrived.
struct Message {
    is_text: bool,
    pieces: Pieces,
}

impl Incoming {
    pub(super) const fn new(config: &WebSocketConfig) -> Self {
        Self {
            message_bytes_max: config.max_message_bytes,
            frame_bytes_max: config.max_frame_bytes,
            frames_max: config.max_fragments,
            head: [0; HEAD_BYTES_MAX],
            head_bytes: 0,
            frame: None,
            control: Vec::new(),
            message: None,
            frames: 0,
        }
    }

    /// Whether something has begun that has not arrived whole.
    pub(super) const fn is_amid(&self) -> bool {
        self.head_bytes > 0 || self.frame.is_some() || self.message.is_some()
    }

    /// Whether the next bytes belong to a ping, a pong or a close, the first of them being `next`.
    pub(super) fn expects_control(&self, next: u8) -> bool {
        match (&self.frame, self.head_bytes) {
            (Some(frame), _) => matches!(frame.opcode, OpCode::Control(_)),
            (None, 0) => next & 0x08 != 0,
            (None, _) => self.head[0] & 0x08 != 0,
        }
    }

    /// Takes bytes from the front of `data`, up to the end of one frame, and unmasks them there. Returns how many, and what has arrived
    /// whole. `data` is not empty.
    ///
    /// # Errors
    /// What is wrong with them; nothing more can be read after that.
    pub(super) fn take(&mut self, data: &mut [u8], account: &Account) -> Result<(usize, Option<Arrived>), Broken> {
        let mut taken = 0;
        if self.frame.is_none() {
            taken = self.take_head(data, account)?;
        }
        let Some(frame) = &mut self.frame else { return Ok((taken, None)) };
        let bytes = frame.left.min(data.len() - taken);
        let content = &mut data[taken..taken + bytes];
        unmask(content, &mut frame.mask);
        frame.left -= bytes;
        let (opcode, is_final, left) = (frame.opcode, frame.is_final, frame.left);
        if let OpCode::Control(kind) = opcode {
            self.control.extend_from_slice(content);
            let arrived = if left == 0 { Some(self.end_control(kind)?) } else { None };
            return Ok((taken + bytes, arrived));
        }
        if let Some(message) = &mut self.message {
            message.pieces.push(content, bytes + left).map_err(no_room)?;
        }
        if left > 0 {
            return Ok((taken + bytes, None));
        }
        self.frame = None;
        let arrived = if is_final { self.end_message()? } else { None };
        Ok((taken + bytes, arrived))
    }

    /// Reads the head of a frame, and checks what it announces. Returns how many bytes of `data` belong to it.
    fn take_head(&mut self, data: &[u8], account: &Account) -> Result<usize, Broken> {
        let known = self.head_bytes;
        let more = data.len().min(HEAD_BYTES_MAX - known);
        self.head[known..known + more].copy_from_slice(&data[..more]);
        let mut cursor = Cursor::new(&self.head[..known + more]);
        let Some((head, length)) = FrameHeader::parse(&mut cursor).map_err(|error| bad_frame(error.to_string()))? else {
            self.head_bytes = known + more;
            return Ok(more);
        };
        let head_bytes = usize::try_from(cursor.position()).unwrap_or(HEAD_BYTES_MAX);
        self.head_bytes = 0;
        self.begin(&head, length, account)?;
        Ok(head_bytes.saturating_sub(known))
    }

    fn begin(&mut self, head: &FrameHeader, length: u64, account: &Account) -> Result<(), Broken> {
        let FrameHeader { is_final, rsv1, rsv2, rsv3, opcode, mask } = *head;
        let Some(mask) = mask else { return Err(bad_frame("the frame is not masked, as each frame of a client must be")) };
        if rsv1 || rsv2 || rsv3 {
            return Err(bad_frame("the frame has a reserved bit set, and no extension has been agreed on"));
        }
        let left = usize::try_from(length).unwrap_or(usize::MAX);
        match opcode {
            OpCode::Control(_) if !is_final => return Err(bad_frame("a ping, pong or close comes in fragments")),
            OpCode::Control(_) if left > CONTROL_BYTES_MAX => {
                return Err(bad_frame(format!(
                    "a ping, pong or close has {left} bytes; at most {CONTROL_BYTES_MAX} are allowed"
                )));
            }
            OpCode::Control(_) => self.frames += usize::from(self.message.is_some()),
            OpCode::Data(kind) => self.begin_data(kind, left, account)?,
        }
        if self.frames > self.frames_max {
            let limit = self.frames_max;
            let message = format!("the message comes in more than the {limit} frames that websocket.max_fragments allows");
            let fault = Fault::new(FaultKind::TooLarge, message).with_limit("websocket.max_fragments", limit as u64);
            return Err(Broken { code: POLICY, fault });
        }
        self.frame = Some(Begun { opcode, is_final, mask, left });
        Ok(())
    }

    fn begin_data(&mut self, kind: Data, left: usize, account: &Account) -> Result<(), Broken> {
        if left > self.frame_bytes_max {
            return Err(too_large("frame", left, self.frame_bytes_max, "websocket.max_frame_bytes"));
        }
        let known = match (&self.message, kind) {
            (Some(message), Data::Continue) => message.pieces.len(),
            (Some(_), _) => return Err(bad_frame("a message begins before the last one has ended")),
            (None, Data::Text | Data::Binary) => {
                self.message = Some(Message { is_text: kind == Data::Text, pieces: Pieces::new(account.charge()) });
                self.frames = 0;
                0
            }
            (None, _) => return Err(bad_frame("a message goes on that has not begun")),
        };
        self.frames += 1;
        match known.checked_add(left).filter(|bytes| *bytes <= self.message_bytes_max) {
            Some(_) => Ok(()),
            None => Err(too_large("message", known.saturating_add(left), self.message_bytes_max, "websocket.max_message_bytes")),
        }
    }

    fn end_message(&mut self) -> Result<Option<Arrived>, Broken> {
        self.frames = 0;
        let Some(Message { is_text, pieces }) = self.message.take() else { return Ok(None) };
        let (bytes, charge) = pieces.join().map_err(no_room)?;
        if !is_text {
            return Ok(Some(Arrived::Binary(bytes, charge)));
        }
        Utf8Bytes::try_from(bytes).map(|text| Some(Arrived::Text(text, charge))).map_err(|error| not_text("message", &error))
    }

    fn end_control(&mut self, kind: Control) -> Result<Arrived, Broken> {
        self.frame = None;
        let content = std::mem::take(&mut self.control);
        match kind {
            Control::Ping => Ok(Arrived::Ping(content.into())),
            Control::Pong => Ok(Arrived::Pong),
            Control::Close => end_of(&content).map(Arrived::Close),
            Control::Reserved(code) => Err(bad_frame(format!("{code} is not a kind of frame"))),
        }
    }
}

/// The code that a close gives.
fn end_of(content: &[u8]) -> Result<Option<u16>, Broken> {
    let Some((code, reason)) = content.split_first_chunk::<2>() else {
        return if content.is_empty() { Ok(None) } else { Err(bad_frame("the close has one byte, and a code takes two")) };
    };
    let code = u16::from_be_bytes(*code);
    if !CloseCode::from(code).is_allowed() {
        return Err(bad_frame(format!("{code} is not a code with which a client may close")));
    }
    str::from_utf8(reason).map(|_| Some(code)).map_err(|error| not_text("reason", &error))
}

/// Takes the mask off, and turns it to where the next bytes begin.
fn unmask(content: &mut [u8], mask: &mut [u8; 4]) {
    let (words, rest) = content.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(*mask)).to_ne_bytes();
    }
    rest.iter_mut().zip(*mask).for_each(|(byte, key)| *byte ^= key);
    mask.rotate_left(content.len() % 4);
}

fn bad_frame(message: impl Into<std::borrow::Cow<'static, str>>) -> Broken {
    Broken { code: PROTOCOL, fault: Fault::invalid("frame", message) }
}

fn not_text(what: &str, error: &dyn std::fmt::Display) -> Broken {
    Broken { code: NOT_TEXT, fault: Fault::invalid("text", format!("the {what} is not UTF-8: {error}")) }
}

fn no_room(fault: Fault) -> Broken {
    Broken { code: OVERLOADED, fault }
}

fn too_large(what: &str, bytes: usize, limit: usize, key: &'static str) -> Broken {
    let message = format!("the {what} is larger than the {limit} bytes that {key} allows: it has {bytes} bytes or more");
    Broken { code: TOO_LARGE, fault: Fault::new(FaultKind::TooLarge, message).with_limit(key, limit as u64) }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{domain::Peer, telemetry::Gauge, transport::Transfer};

    const MASK: [u8; 4] = [1, 2, 3, 4];

    fn config() -> WebSocketConfig {
        WebSocketConfig { max_message_bytes: 4_096, max_frame_bytes: 2_048, max_fragments: 4, ..WebSocketConfig::default() }
    }

    /// A frame of a client.
    fn frame(first: u8, content: &[u8]) -> Vec<u8> {
        let opcode = OpCode::from(first & 0x0f);
        let head = FrameHeader { is_final: first & 0x80 != 0, opcode, mask: Some(MASK), ..FrameHeader::default() };
        let mut bytes = Vec::new();
        head.format(content.len() as u64, &mut bytes).expect("into memory");
        let mut content = content.to_vec();
        unmask(&mut content, &mut MASK.clone());
        bytes.extend(content);
        bytes
    }

    /// What has arrived, in words, or the code of what is wrong; `cut` bytes at a time.
    fn read(bytes: &[u8], cut: usize) -> (Vec<String>, Option<Broken>) {
        let transfer = Transfer::new(1 << 20, Gauge::noop());
        let account = transfer.connection(Peer::default());
        let (mut incoming, mut said) = (Incoming::new(&config()), Vec::new());
        for piece in bytes.to_vec().chunks_mut(cut) {
            let mut at = 0;
            while at < piece.len() {
                match incoming.take(&mut piece[at..], &account) {
                    Ok((taken, arrived)) => {
                        assert!(taken > 0, "it gets on");
                        at += taken;
                        said.extend(arrived.map(|arrived| match arrived {
                            Arrived::Text(text, charge) => {
                                assert!(charge.bytes() >= text.len());
                                format!("text {text}")
                            }
                            Arrived::Binary(bytes, charge) => {
                                assert!(charge.bytes() >= bytes.len());
                                format!("binary {}", bytes.len())
                            }
                            Arrived::Ping(content) => format!("ping {content:?}"),
                            Arrived::Pong => "pong".to_owned(),
                            Arrived::Close(code) => format!("close {code:?}"),
                        }));
                    }
                    Err(broken) => return (said, Some(broken)),
                }
            }
        }
        drop(incoming);
        assert_eq!(transfer.bytes(), 0, "all of it is given back");
        (said, None)
    }

    fn code(frames: &[Vec<u8>]) -> Option<u16> {
        read(&frames.concat(), 4_096).1.map(|broken| broken.code)
    }

    #[test]
    fn messages_come_whole_or_in_fragments_with_others_between() {
        let frames = [
            frame(0x81, b"whole"),
            frame(0x01, b"in "),
            frame(0x89, b"?"),
            frame(0x00, b""),
            frame(0x80, b"parts"),
            frame(0x82, &[7; 300]),
            frame(0x8a, b""),
            frame(0x82, b""),
            frame(0x88, &[0x03, 0xe8, b'b', b'y', b'e']),
        ];
        let expected = ["text whole", "ping b\"?\"", "text in parts", "binary 300", "pong", "binary 0", "close Some(1000)"]
            .map(str::to_owned);
        for cut in [1, 2, 3, 5, 13, 4_096] {
            let (said, broken) = read(&frames.concat(), cut);
            assert_eq!((said.as_slice(), broken), (&expected[..], None), "{cut}");
        }
    }

    #[test]
    fn each_breach_has_its_code() {
        let unmasked = vec![0x81, 1, b'a'];
        assert_eq!(code(&[unmasked]), Some(1002));
        assert_eq!(code(&[frame(0x83, b"")]), Some(1002), "no such kind");
        let mut reserved = frame(0x81, b"a");
        reserved[0] |= 0x40;
        assert_eq!(code(&[reserved]), Some(1002));
        assert_eq!(code(&[frame(0x80, b"")]), Some(1002), "nothing to go on with");
        assert_eq!(code(&[frame(0x01, b""), frame(0x81, b"")]), Some(1002), "the first has not ended");
        assert_eq!(code(&[frame(0x09, b"")]), Some(1002), "a ping in fragments");
        assert_eq!(code(&[frame(0x89, &[0; 126])]), Some(1002));
        assert_eq!((code(&[frame(0x88, b"a")]), code(&[frame(0x88, &[0x03, 0xed])])), (Some(1002), Some(1002)));
        assert_eq!((code(&[frame(0x81, &[0xff])]), code(&[frame(0x88, &[0x03, 0xe8, 0xff])])), (Some(1007), Some(1007)));
        assert_eq!(code(&[frame(0x82, &[0; 2_049])]), Some(1009));
        assert_eq!(code(&[frame(0x02, &[0; 2_048]), frame(0x00, &[0; 2_048]), frame(0x80, &[0; 1])]), Some(1009));
        assert_eq!(code(&[frame(0x02, b"")].into_iter().chain((0..3).map(|_| frame(0x89, b""))).collect::<Vec<_>>()), None);
        assert_eq!(code(&[frame(0x02, b"")].into_iter().chain((0..4).map(|_| frame(0x89, b""))).collect::<Vec<_>>()), Some(1008));
    }

    #[test]
    fn a_frame_is_refused_by_its_head_and_takes_no_room_before_it_comes() {
        let mut head = vec![0x82, 0xff];
        head.extend(u64::MAX.to_be_bytes());
        head.extend(MASK);
        assert_eq!(read(&head, 4_096).1.map(|broken| broken.code), Some(1009));
        let (said, broken) = read(&frame(0x82, &[0; 2_000])[..10], 4_096);
        assert_eq!((said.len(), broken), (0, None));
    }

    #[test]
    fn without_room_the_socket_is_closed_as_overloaded() {
        let transfer = Transfer::new(1_024, Gauge::noop());
        let account = transfer.connection(Peer::default());
        let mut incoming = Incoming::new(&config());
        let broken = incoming.take(&mut frame(0x82, &[0; 2_000]), &account).expect_err("no room");
        assert_eq!((broken.code, broken.fault.limit().map(|limit| limit.name)), (1013, Some("memory.transfer_bytes")));
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_the_way_they_are_cut_does_not_matter(bytes in vec(any::<u8>(), 0..200), cut in 1_usize..20) {
            let (whole, cut) = (read(&bytes, 4_096), read(&bytes, cut));
            prop_assert_eq!(whole.0, cut.0);
            prop_assert_eq!(whole.1.map(|broken| broken.code), cut.1.map(|broken| broken.code));
        }

        #[test]
        fn no_sequence_of_frames_panics(
            frames in vec((any::<u8>(), vec(any::<u8>(), 0..130)), 0..8),
            cut in 1_usize..50,
        ) {
            let bytes: Vec<u8> = frames.iter().filter(|(first, _)| first & 0x0f < 11).flat_map(|(first, content)| frame(*first, content)).collect();
            let (whole, cut) = (read(&bytes, 4_096), read(&bytes, cut));
            prop_assert_eq!(whole.0, cut.0);
        }

        #[test]
        fn a_mask_comes_off_however_the_content_is_cut(content in vec(any::<u8>(), 0..40), at in 0_usize..40, mask: [u8; 4]) {
            let mut cut = content.clone();
            let (left, right) = cut.split_at_mut(at.min(content.len()));
            let mut turning = mask;
            unmask(left, &mut turning);
            unmask(right, &mut turning);
            let expected: Vec<u8> = content.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]).collect();
            prop_assert_eq!(cut, expected);
        }
    }
}
