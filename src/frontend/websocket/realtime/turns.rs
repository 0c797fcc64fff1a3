//! Turns of speech, found in probabilities while they come.
//!
//! ```text
//!  idle ──► speaking ──► maybe over ──► idle
//!              ▲              │
//!              └── goes on ◄──┘
//! ```

use smallvec::SmallVec;

use super::settings::Detection;
use crate::codec::{SegmentEvent, SegmentFinder, WindowPosition};

/// What a window has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// A turn has begun, at this sample of the stream.
    Started(u64),
    /// It may be over.
    MaybeOver,
    /// It is not.
    GoesOn,
    /// It is over.
    Ended,
}

/// Finds turns in one stream.
#[derive(Debug)]
pub(super) struct Turns {
    finder: SegmentFinder,
    rate_hz: u32,
    eager_silence_samples: u64,
    is_speaking: bool,
    may_be_over: bool,
}

impl Turns {
    pub(super) fn new(detection: Detection, rate_hz: u32) -> Self {
        Self {
            finder: SegmentFinder::new(detection.segment_rules(), rate_hz),
            rate_hz,
            eager_silence_samples: eager_silence_samples(detection, rate_hz),
            is_speaking: false,
            may_be_over: false,
        }
    }

    /// Goes by these settings from the next window on. A turn that has begun goes on.
    pub(super) fn set(&mut self, detection: Detection) {
        self.finder.set_rules(detection.segment_rules(), self.rate_hz);
        self.eager_silence_samples = eager_silence_samples(detection, self.rate_hz);
    }

    /// Whether a turn has begun and is not over.
    pub(super) const fn is_speaking(&self) -> bool {
        self.is_speaking
    }

    /// Takes in the probability of the next window, if it has one.
    pub(super) fn push(&mut self, probability: Option<f32>, position: &WindowPosition) -> SmallVec<[Turn; 3]> {
        let mut found = SmallVec::new();
        for event in self.finder.push(probability, position) {
            match event {
                SegmentEvent::Started { start_sample, .. } => {
                    self.is_speaking = true;
                    found.push(Turn::Started(start_sample));
                }
                SegmentEvent::Ended(_) => {
                    (self.is_speaking, self.may_be_over) = (false, false);
                    found.push(Turn::Ended);
                }
            }
        }
        let silence_samples = self.finder.silence_start_sample().map(|start| position.start_sample.saturating_sub(start));
        match silence_samples.filter(|_| self.is_speaking) {
            Some(samples) if !self.may_be_over && samples >= self.eager_silence_samples => {
                self.may_be_over = true;
                found.push(Turn::MaybeOver);
            }
            None if self.may_be_over => {
                self.may_be_over = false;
                found.push(Turn::GoesOn);
            }
            _ => {}
        }
        found
    }

    /// Ends whatever has begun, without a word. Speech that goes on is another turn.
    pub(super) fn cut(&mut self) {
        self.finder.finish(0);
        (self.is_speaking, self.may_be_over) = (false, false);
    }
}

fn eager_silence_samples(detection: Detection, rate_hz: u32) -> u64 {
    (u64::from(detection.eager_silence_ms()) * u64::from(rate_hz)).div_ceil(1_000)
}

#[cfg(test)]
mod tests {
    use super::{super::settings::ServerVad, *};

    const WINDOW: u64 = 512;

    struct Windows {
        turns: Turns,
        index: u64,
    }

    impl Windows {
        fn new(rules: ServerVad) -> Self {
            Self { turns: Turns::new(Detection::Server(rules), 16_000), index: 0 }
        }

        /// What this many windows of this probability bring, each with its window.
        fn push(&mut self, probability: f32, count: u64) -> Vec<(u64, Turn)> {
            let mut found = Vec::new();
            for _ in 0..count {
                let start_sample = self.index * WINDOW;
                let position = WindowPosition { index: self.index, start_sample, end_sample: start_sample + WINDOW };
                found.extend(self.turns.push(Some(probability), &position).into_iter().map(|turn| (self.index, turn)));
                self.index += 1;
            }
            found
        }
    }

    #[test]
    fn a_turn_may_be_over_go_on_and_end() {
        let mut windows = Windows::new(ServerVad::DEFAULT);
        assert_eq!(windows.push(0.1, 5), []);
        assert_eq!(windows.push(0.9, 10), [(6, Turn::Started(5 * WINDOW))], "one window could be a click");
        assert_eq!(windows.push(0.1, 10), [(23, Turn::MaybeOver)], "250 ms");
        assert_eq!(windows.push(0.9, 1), [(25, Turn::GoesOn)]);
        assert_eq!(windows.push(0.1, 20), [(34, Turn::MaybeOver), (42, Turn::Ended)], "512 ms");
        assert_eq!(windows.push(0.9, 1), []);
    }

    #[test]
    fn other_settings_apply_in_the_middle_of_a_turn() {
        let mut windows = Windows::new(ServerVad::DEFAULT);
        windows.push(0.9, 10);
        windows.push(0.1, 4);
        windows.turns.set(Detection::Server(ServerVad { silence_duration_ms: 96, ..ServerVad::DEFAULT }));
        assert_eq!(windows.push(0.1, 1), [(14, Turn::Ended)]);
    }

    #[test]
    fn speech_that_goes_on_after_a_cut_is_another_turn() {
        let mut windows = Windows::new(ServerVad::DEFAULT);
        windows.push(0.9, 10);
        windows.turns.cut();
        assert!(!windows.turns.is_speaking());
        assert_eq!(windows.push(0.9, 2), [(11, Turn::Started(10 * WINDOW))]);
    }
}
