//! Writes lines out, one after another, and counts those that cannot be written.

use std::io::{self, Write};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    stdio,
};
use tracing_subscriber::fmt::{
    format,
    time::{FormatTime as _, SystemTime},
};

use super::{
    escape,
    queue::{Job, Queue},
};
use crate::config::LogFormat;

/// Longest line; longer ones are truncated.
pub(super) const LINE_BYTES_MAX: usize = 16 << 10;

/// How many times in a row a file may report that it is ready and then accept nothing.
const BLOCKED_MAX: u32 = 8;

/// Standard error itself: writing to it holds no lock that others might wait for.
pub(super) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for _ in 0..BLOCKED_MAX {
            match rustix::io::write(stdio::stderr(), bytes) {
                Err(Errno::INTR) => {}
                // Another process sharing the terminal or pipe has made it non-blocking. This thread may wait.
                Err(Errno::AGAIN) => wait_for_room(),
                written => return Ok(written?),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn wait_for_room() {
    let error = stdio::stderr();
    let mut polled = [PollFd::new(&error, PollFlags::OUT)];
    // Whatever this returns, the next write will tell.
    let _ = poll(&mut polled, None);
}

/// Writes lines to a file.
pub(super) struct Writer<W> {
    file: W,
    format: LogFormat,
    /// The last line was not written, or not completely.
    fails: bool,
    /// The file ends in the middle of a line.
    within_line: bool,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(file: W, format: LogFormat) -> Self {
        Self { file, format, fails: false, within_line: false }
    }

    /// Writes lines as they come, for ever.
    pub(super) fn work(&mut self, queue: &Queue) {
        loop {
            let job = queue.take(!self.fails);
            self.write(queue, job);
        }
    }

    fn write(&mut self, queue: &Queue, Job { lost, line }: Job) {
        if lost > 0 {
            let told = self.write_line(&loss_line(lost, self.format));
            if told.is_err() {
                queue.report_later(lost);
            }
        }
        if let Some(line) = line
            && self.write_line(&line).is_err()
        {
            queue.lose(1);
        }
    }

    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.write_bytes(line);
        self.fails = written.is_err();
        written
    }

    fn write_bytes(&mut self, line: &[u8]) -> io::Result<()> {
        if self.within_line {
            // Whatever was written of the previous line stays on its own line.
            self.file.write_all(b"\n")?;
            self.within_line = false;
        }
        let mut rest = line;
        while !rest.is_empty() {
            match self.file.write(rest)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                bytes => rest = rest.get(bytes..).unwrap_or_default(),
            }
            self.within_line = !rest.is_empty();
        }
        Ok(())
    }
}

/// The line that says how many were lost.
fn loss_line(lost: u64, format: LogFormat) -> Vec<u8> {
    line(
        format,
        &format!(
            "{lost} lines of the log were lost: it could not be written, or not fast enough (tidemill_log_lines_lost_total)"
        ),
    )
}

/// A line from the log itself, in the format `tracing` uses for the others.
fn line(format: LogFormat, message: &str) -> Vec<u8> {
    let mut time = String::new();
    // Writing to a string cannot fail.
    let _ = SystemTime.format_time(&mut format::Writer::new(&mut time));
    match format {
        LogFormat::Text => format!("{time}  WARN {message}\n").into_bytes(),
        LogFormat::Json => {
            let line = serde_json::json!({
                "timestamp": time, "level": "WARN", "fields": { "message": message }, "target": "tidemill::log"
            });
            format!("{line}\n").into_bytes()
        }
    }
}

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) format: LogFormat,
    /// Whether `tracing` has put colours in.
    pub(super) is_coloured: bool,
}

impl Form {
    fn escaped(self, bytes: &[u8]) -> Vec<u8> {
        match self.format {
            LogFormat::Text => escape::text(bytes, self.is_coloured),
            LogFormat::Json => escape::json(bytes),
        }
    }
}

/// The message as it is written: whole, or its beginning with a mark. A JSON message remains an object.
pub(super) fn shortened(bytes: &[u8], form: Form) -> Vec<u8> {
    if bytes.len() > LINE_BYTES_MAX {
        return cut(bytes, form);
    }
    let whole = form.escaped(bytes);
    if whole.len() > LINE_BYTES_MAX { cut(bytes, form) } else { whole }
}

/// The beginning of a message that is too long, or becomes too long by what is escaped.
fn cut(bytes: &[u8], form: Form) -> Vec<u8> {
    // A third, because JSON may need several bytes for one.
    let kept = match form.format {
        LogFormat::Text => LINE_BYTES_MAX,
        LogFormat::Json => LINE_BYTES_MAX / 3,
    };
    let beginning = String::from_utf8_lossy(&bytes[..kept.min(bytes.len())]);
    let beginning = beginning.trim_end_matches(char::REPLACEMENT_CHARACTER);
    let length = bytes.len();
    match form.format {
        LogFormat::Text => {
            let escaped = form.escaped(beginning.as_bytes());
            let beginning = String::from_utf8_lossy(&escaped[..kept.min(escaped.len())]);
            let beginning = beginning.trim_end_matches(char::REPLACEMENT_CHARACTER);
            format!("{beginning} … (a line of {length} bytes, cut)\n").into_bytes()
        }
        LogFormat::Json => form.escaped(&line(form.format, &format!("a line of {length} bytes is cut: {beginning} …"))),
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use super::*;
    use crate::log::queue::LINES_MAX;

    const TEXT: Form = Form { format: LogFormat::Text, is_coloured: false };
    const JSON: Form = Form { format: LogFormat::Json, is_coloured: false };

    /// A file that accepts this many more bytes and then fails, until there is room again.
    #[derive(Clone, Default)]
    struct Disk(Rc<RefCell<(Vec<u8>, usize)>>);

    impl Disk {
        fn make_room(&self, bytes: usize) {
            self.0.borrow_mut().1 = bytes;
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.borrow().0.clone()).expect("text")
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (written, room) = &mut *self.0.borrow_mut();
            if *room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let bytes = &bytes[..bytes.len().min(*room)];
            written.extend_from_slice(bytes);
            *room -= bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct World {
        queue: Queue,
        disk: Disk,
        writer: Writer<Disk>,
    }

    impl World {
        fn new(room: usize) -> Self {
            let disk = Disk::default();
            disk.make_room(room);
            Self { queue: Queue::default(), writer: Writer::new(disk.clone(), LogFormat::Text), disk }
        }

        /// Logs a line and gets it written.
        fn log(&mut self, line: &str) {
            self.queue.push(line.as_bytes().to_vec());
            self.write();
        }

        fn write(&mut self) {
            let job = self.queue.take(!self.writer.fails);
            self.writer.write(&self.queue, job);
        }
    }

    /// Lines, with the time removed from those that the log writes itself.
    fn lines(text: &str) -> Vec<String> {
        text.lines().map(|line| line.split_once("  WARN ").map_or(line, |(_, message)| message).to_owned()).collect()
    }

    fn told(lost: u64) -> String {
        lines(&String::from_utf8(loss_line(lost, LogFormat::Text)).expect("text")).remove(0)
    }

    #[test]
    fn lines_that_a_full_disk_does_not_take_are_reported_when_there_is_room() {
        let mut world = World::new(4);
        for line in ["one\n", "two\n", "three\n"] {
            world.log(line);
        }
        assert_eq!(world.disk.text(), "one\n");
        world.disk.make_room(1_000);
        world.log("four\n");
        assert_eq!(lines(&world.disk.text()), ["one".to_owned(), told(2), "four".to_owned()]);
    }

    #[test]
    fn half_a_line_stays_alone() {
        let mut world = World::new(6);
        world.log("one\n");
        world.log("second\n");
        assert_eq!(world.disk.text(), "one\nse");
        world.disk.make_room(1_000);
        world.log("three\n");
        assert_eq!(lines(&world.disk.text()), ["one".to_owned(), "se".to_owned(), told(1), "three".to_owned()]);
    }

    #[test]
    fn what_could_not_be_reported_is_reported_once_with_what_was_lost_since() {
        let mut world = World::new(0);
        world.log("one\n");
        world.disk.make_room(10);
        world.log("two\n");
        world.disk.make_room(1_000);
        world.log("three\n");
        let text = world.disk.text();
        assert!(text.ends_with(&format!("{}\nthree\n", told(2))), "{text}");
    }

    #[test]
    fn lines_beyond_the_queue_are_lost_and_reported_even_if_no_other_line_comes() {
        let mut world = World::new(usize::MAX);
        let before = super::super::lines_lost();
        for _ in 0..LINES_MAX + 3 {
            world.queue.push(b"x\n".to_vec());
        }
        assert!(super::super::lines_lost() >= before + 3, "other tests may lose some as well");
        world.write();
        assert_eq!(lines(&world.disk.text()), [told(3), "x".to_owned()]);
        for _ in 1..LINES_MAX {
            world.write();
        }
        world.queue.lose(1);
        world.write();
        assert!(world.disk.text().ends_with(&format!("{}\n", told(1))));
    }

    #[test]
    fn a_long_line_is_cut_between_characters_and_says_so() {
        let long = "é".repeat(LINE_BYTES_MAX);
        let cut = String::from_utf8(shortened(format!("x{long}\n").as_bytes(), TEXT)).expect("text");
        assert!(cut.len() < LINE_BYTES_MAX + 100 && cut.contains("é … (a line of 32770 bytes, cut)\n"), "{}", cut.len());
        assert_eq!(shortened(b"short\n", TEXT), b"short\n");
    }

    #[test]
    fn a_message_with_line_feeds_in_it_does_not_look_like_several() {
        let faked = b"found model a\n2026-01-01T00:00:00Z ERROR all is lost\r\n";
        let written = String::from_utf8(shortened(faked, TEXT)).expect("text");
        assert_eq!(written, "found model a\n    | 2026-01-01T00:00:00Z ERROR all is lost\\r\n");
        assert_eq!(shortened(b"half", TEXT), b"half");
    }

    #[test]
    fn lines_of_json_are_objects_even_when_they_are_cut() {
        let long = format!("{{\"fields\":\"{}\"}}\n", "\\\"".repeat(LINE_BYTES_MAX));
        for line in [loss_line(7, LogFormat::Json), shortened(long.as_bytes(), JSON)] {
            assert!(line.len() <= LINE_BYTES_MAX && line.ends_with(b"}\n"));
            let object: serde_json::Value = serde_json::from_slice(&line).expect("JSON");
            assert_eq!((object["level"].as_str(), object["timestamp"].is_string()), (Some("WARN"), true));
        }
    }
}
