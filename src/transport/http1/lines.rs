//! Whether the lines of a request's head end as HTTP requires.
//!
//! HTTP lets a server accept a lone line feed as the end of a line, and hyper does; a proxy in front may not, and then the two
//! disagree about where a header ends. Knows bytes, and nothing about headers.

use memchr::memchr_iter;

/// What has been seen of a head so far.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Bytes of the unfinished line, and the last of them.
    begun: usize,
    last: Option<u8>,
    /// A line with content has ended.
    has_content: bool,
    /// The empty line that ends the head has been seen.
    is_over: bool,
    /// Bytes that came after it.
    beyond: usize,
}

impl Lines {
    /// Takes the next bytes. Returns whether a line of the head ends with a line feed alone; what follows the head does not
    /// count.
    pub(super) fn end_bare(&mut self, bytes: &[u8]) -> bool {
        if self.is_over {
            self.beyond += bytes.len();
            return false;
        }
        let mut start = 0;
        for end in memchr_iter(b'\n', bytes) {
            let line = &bytes[start..end];
            if line.last().copied().or(self.last) != Some(b'\r') {
                return true;
            }
            let length = self.begun + line.len();
            // Empty lines before a head are skipped.
            if length == 1 && self.has_content {
                self.is_over = true;
                self.beyond = bytes.len() - end - 1;
                return false;
            }
            self.has_content |= length > 1;
            (self.begun, self.last, start) = (0, None, end + 1);
        }
        let rest = &bytes[start..];
        self.begun += rest.len();
        self.last = rest.last().copied().or(self.last);
        false
    }

    /// Bytes that came with the head but do not belong to it. `None` if its end was not seen.
    pub(super) fn beyond(&self) -> Option<usize> {
        self.is_over.then_some(self.beyond)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    fn bare(text: &str) -> bool {
        Lines::default().end_bare(text.as_bytes())
    }

    #[test]
    fn a_line_feed_alone_is_found_in_the_head_and_nowhere_else() {
        for sound in ["", "GET / HTTP/1.1\r\nhost: a\r\n\r\n", "\r\n\r\nGET /\r\n\r\n\n{\n}", "GET /", "GET /\r", "a\rb\r\n\r\n"]
        {
            assert!(!bare(sound), "{sound:?}");
        }
        for broken in ["\n", "GET / HTTP/1.1\n", "GET /\r\nhost: a\n\r\n", "GET /\r\n\n", "\r\n\nGET /\r\n", "GET /\r\r\na\n"] {
            assert!(bare(broken), "{broken:?}");
        }
    }

    #[test]
    fn bytes_that_come_with_a_head_but_are_not_part_of_it_are_counted() {
        let mut lines = Lines::default();
        assert!(!lines.end_bare(b"GET /\r\n\r"));
        assert_eq!(lines.beyond(), None);
        assert!(!lines.end_bare(b"\n{\n}"));
        assert!(!lines.end_bare(b"\n"));
        assert_eq!(lines.beyond(), Some(4));
    }

    /// Line by line, with the whole text at hand.
    fn naive(text: &[u8]) -> bool {
        let mut has_content = false;
        let mut rest = text;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            match &rest[..end] {
                [.., b'\r'] if end > 1 => has_content = true,
                [b'\r'] if has_content => return false,
                [b'\r'] => {}
                _ => return true,
            }
            rest = &rest[end + 1..];
        }
        false
    }

    proptest! {
        #[test]
        fn the_way_a_head_is_cut_does_not_matter(text in vec(select(b"a\r\n".to_vec()), 0..40), cuts in vec(0..40_usize, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let mut lines = Lines::default();
            let found = cuts.windows(2).any(|cut| lines.end_bare(&text[cut[0]..cut[1]]));
            prop_assert_eq!(found, naive(&text));
            let mut whole = Lines::default();
            whole.end_bare(&text);
            prop_assert_eq!(lines.beyond(), whole.beyond());
        }
    }
}
