//! Finds stretches of speech in a sequence of probabilities, like Silero's published algorithm, but while the feed runs.
//!
//! Knows neither the model nor the audio: only one probability per window, and where the window lies.

use smallvec::SmallVec;

use super::WindowPosition;

/// What one step may bring: at most the beginning and the end of one segment.
pub type SegmentEvents = SmallVec<[SegmentEvent; 2]>;

/// When a stretch of windows counts as a segment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SegmentRules {
    /// A segment begins at a window with at least this probability.
    pub threshold: f32,
    /// Silence begins at a window below this probability, and ends at one that reaches `threshold`.
    pub negative_threshold: f32,
    /// A segment is kept if it is longer than this, padding aside.
    pub min_speech_ms: u32,
    /// Silence of this length ends a segment.
    pub min_silence_ms: u32,
    /// Added to both ends of a segment.
    pub pad_ms: u32,
}

impl Default for SegmentRules {
    /// Silero's.
    fn default() -> Self {
        let threshold = 0.5;
        Self {
            threshold,
            negative_threshold: Self::negative_threshold_below(threshold),
            min_speech_ms: 250,
            min_silence_ms: 100,
            pad_ms: 30,
        }
    }
}

impl SegmentRules {
    /// The negative threshold that goes with `threshold` if none is given: 0.15 below it, and at least 0.01.
    #[must_use]
    pub const fn negative_threshold_below(threshold: f32) -> f32 {
        (threshold - 0.15).max(0.01)
    }

    /// All faults, each with its key and value; empty if there is none.
    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (key, value) in [("threshold", self.threshold), ("negative_threshold", self.negative_threshold)] {
            if !(value > 0.0 && value < 1.0) {
                faults.push(format!("{key} is {value}; it must lie between 0 and 1, both excluded"));
            }
        }
        if self.negative_threshold >= self.threshold {
            faults.push(format!(
                "negative_threshold is {}; it must be less than threshold, which is {}",
                self.negative_threshold, self.threshold
            ));
        }
        // Otherwise the padding of two neighbours might overlap, and an end would not be certain until the next start.
        if u64::from(self.min_silence_ms) < 2 * u64::from(self.pad_ms) {
            faults.push(format!(
                "min_silence_ms is {}; it must be at least twice pad_ms, which is {}",
                self.min_silence_ms, self.pad_ms
            ));
        }
        faults
    }
}

/// A stretch of a feed, padding included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Number of the segment in its feed, from 0.
    pub index: u64,
    /// First sample.
    pub start_sample: u64,
    /// One past the last sample.
    pub end_sample: u64,
}

impl Segment {
    /// `start_sample` in milliseconds, rounded to the nearest.
    #[must_use]
    pub fn start_ms(&self, sample_rate_hz: u32) -> u64 {
        ms_of_sample(self.start_sample, sample_rate_hz)
    }

    /// `end_sample` in milliseconds, rounded to the nearest.
    #[must_use]
    pub fn end_ms(&self, sample_rate_hz: u32) -> u64 {
        ms_of_sample(self.end_sample, sample_rate_hz)
    }
}

/// A certain beginning or end. Each segment gives one `Started`, then one `Ended` with the same index and start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentEvent {
    /// A segment is long enough to be kept, and still goes on.
    Started {
        /// Number that the segment will have.
        index: u64,
        /// First sample, padding included.
        start_sample: u64,
    },
    /// A segment is complete.
    Ended(Segment),
}

/// The position `sample` in milliseconds, rounded to the nearest; 0 at a sample rate of 0.
fn ms_of_sample(sample: u64, sample_rate_hz: u32) -> u64 {
    let rate = u128::from(sample_rate_hz);
    (u128::from(sample) * 1000 + rate / 2).checked_div(rate).map_or(0, |ms| u64::try_from(ms).unwrap_or(u64::MAX))
}

/// Finds the segments of one feed.
#[derive(Debug, Clone)]
pub struct SegmentFinder {
    threshold: f32,
    negative_threshold: f32,
    /// Speech must be longer than this.
    min_speech_samples: u64,
    /// Silence must be at least this long.
    min_silence_samples: u64,
    pad_before_samples: u64,
    pad_after_samples: u64,
    open: Option<OpenSegment>,
    next_index: u64,
    /// End of the last segment kept; the next may not begin before it.
    previous_end_sample: u64,
}

/// A segment that has begun but not ended.
#[derive(Debug, Clone, Copy)]
struct OpenSegment {
    /// First sample, without padding.
    start_sample: u64,
    /// Where the silence that may turn out to be its end began.
    silence_start_sample: Option<u64>,
    /// End of the last window that was heard.
    heard_to_sample: u64,
    /// First sample with padding, once announced.
    announced_start_sample: Option<u64>,
}

impl SegmentFinder {
    /// A feed that has not begun. The rules should be [valid](SegmentRules::validate); with others, the segments differ from those of the
    /// published algorithm, but never overlap.
    #[must_use]
    pub fn new(rules: SegmentRules, sample_rate_hz: u32) -> Self {
        // Durations need not be whole samples. Rounding each towards the side of its comparison gives the exact outcome.
        let thousandths = |duration_ms: u32| u64::from(duration_ms) * u64::from(sample_rate_hz);
        Self {
            threshold: rules.threshold,
            negative_threshold: rules.negative_threshold,
            min_speech_samples: thousandths(rules.min_speech_ms) / 1000,
            min_silence_samples: thousandths(rules.min_silence_ms).div_ceil(1000),
            pad_before_samples: thousandths(rules.pad_ms).div_ceil(1000),
            pad_after_samples: thousandths(rules.pad_ms) / 1000,
            open: None,
            next_index: 0,
            previous_end_sample: 0,
        }
    }

    /// From the next window on, goes by these rules; a segment that is open stays open.
    pub fn set_rules(&mut self, rules: SegmentRules, sample_rate_hz: u32) {
        let Self { open, next_index, previous_end_sample, .. } = *self;
        *self = Self { open, next_index, previous_end_sample, ..Self::new(rules, sample_rate_hz) };
    }

    /// Where the silence began that the open segment is in; `None` if none is open, or its last window was speech.
    #[must_use]
    pub fn silence_start_sample(&self) -> Option<u64> {
        self.open.and_then(|open| open.silence_start_sample)
    }

    /// Takes in the probability of the next window. A window without one (it failed or expired, or the model gave NaN) changes
    /// nothing.
    pub fn push(&mut self, probability: Option<f32>, position: &WindowPosition) -> SegmentEvents {
        let mut events = SegmentEvents::new();
        let Some(probability) = probability.filter(|probability| !probability.is_nan()) else { return events };
        let speech = probability >= self.threshold;
        let silence = !speech && probability < self.negative_threshold;
        let open = match &mut self.open {
            Some(open) => open,
            None if speech => self.open.insert(OpenSegment {
                start_sample: position.start_sample,
                silence_start_sample: None,
                heard_to_sample: position.end_sample,
                announced_start_sample: None,
            }),
            None => return events,
        };
        open.heard_to_sample = open.heard_to_sample.max(position.end_sample);
        // A window between the thresholds lets a silence continue, but cannot complete it.
        if speech {
            open.silence_start_sample = None;
        } else if silence {
            open.silence_start_sample.get_or_insert(position.start_sample);
        }

        // Whatever follows, the segment will not end before here.
        let end_sample_min = open.silence_start_sample.unwrap_or(open.heard_to_sample);
        self.announce(end_sample_min, &mut events);
        if silence && position.start_sample.saturating_sub(end_sample_min) >= self.min_silence_samples {
            let padded = end_sample_min.saturating_add(self.pad_after_samples);
            self.close(padded.min(position.end_sample), &mut events);
        }
        events
    }

    /// The feed, or the part of it before a flush, ends at `total_samples`: closes a segment that is open. More windows may
    /// follow.
    pub fn finish(&mut self, total_samples: u64) -> SegmentEvents {
        let mut events = SegmentEvents::new();
        if let Some(open) = self.open {
            // As published, silence too short to end a segment belongs to it, even at the end of the feed.
            let end_sample = total_samples.max(open.heard_to_sample);
            self.announce(end_sample, &mut events);
            self.close(end_sample, &mut events);
        }
        events
    }

    /// Announces the open segment, unless that was done already or it is not long enough if it ends at `end_sample`.
    fn announce(&mut self, end_sample: u64, events: &mut SegmentEvents) {
        let Some(open) = &mut self.open else { return };
        let long_enough = end_sample.saturating_sub(open.start_sample) > self.min_speech_samples;
        if open.announced_start_sample.is_none() && long_enough {
            let start_sample = open.start_sample.saturating_sub(self.pad_before_samples).max(self.previous_end_sample);
            open.announced_start_sample = Some(start_sample);
            events.push(SegmentEvent::Started { index: self.next_index, start_sample });
        }
    }

    /// Ends the open segment at `end_sample`, padding included; silently if it was too short to be announced.
    fn close(&mut self, end_sample: u64, events: &mut SegmentEvents) {
        let Some(start_sample) = self.open.take().and_then(|open| open.announced_start_sample) else { return };
        let end_sample = end_sample.max(start_sample);
        events.push(SegmentEvent::Ended(Segment { index: self.next_index, start_sample, end_sample }));
        self.next_index += 1;
        self.previous_end_sample = end_sample;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE_HZ: u32 = 16_000;
    const WINDOW: u64 = 512;
    /// 30 ms at 16 kHz.
    const PAD: u64 = 480;
    const YES: f32 = 0.9;
    const NO: f32 = 0.1;

    /// A finder, and where in the feed it is.
    struct Feed {
        finder: SegmentFinder,
        index: u64,
        sample: u64,
    }

    impl Feed {
        fn new() -> Self {
            Self { finder: SegmentFinder::new(SegmentRules::default(), RATE_HZ), index: 0, sample: 0 }
        }

        fn push(&mut self, probability: impl Into<Option<f32>>) -> SegmentEvents {
            self.push_of(probability, WINDOW)
        }

        fn push_of(&mut self, probability: impl Into<Option<f32>>, samples: u64) -> SegmentEvents {
            let position = WindowPosition { index: self.index, start_sample: self.sample, end_sample: self.sample + samples };
            self.index += 1;
            self.sample = position.end_sample;
            self.finder.push(probability.into(), &position)
        }

        fn repeat(&mut self, probability: impl Into<Option<f32>>, count: usize) -> Vec<SegmentEvent> {
            let probability = probability.into();
            (0..count).flat_map(|_| self.push(probability)).collect()
        }

        fn finish(&mut self) -> SegmentEvents {
            self.finder.finish(self.sample)
        }
    }

    fn started(index: u64, start_sample: u64) -> SegmentEvent {
        SegmentEvent::Started { index, start_sample }
    }

    fn ended(index: u64, start_sample: u64, end_sample: u64) -> SegmentEvent {
        SegmentEvent::Ended(Segment { index, start_sample, end_sample })
    }

    #[test]
    fn a_segment_starts_once_it_is_longer_than_min_speech_and_not_before() {
        let mut feed = Feed::new();
        assert_eq!(feed.repeat(NO, 10), []);
        assert_eq!(feed.repeat(YES, 7), [], "7 windows are 224 ms");
        assert_eq!(feed.push(YES).as_slice(), [started(0, 10 * WINDOW - PAD)], "8 are 256 ms");
        assert_eq!(feed.repeat(YES, 100), []);
    }

    #[test]
    fn a_segment_ends_once_min_silence_has_passed() {
        let mut feed = Feed::new();
        feed.repeat(YES, 10);
        assert_eq!(feed.repeat(NO, 4), [], "the fourth window begins 96 ms after the silence");
        assert_eq!(feed.push(NO).as_slice(), [ended(0, 0, 10 * WINDOW + PAD)]);
        assert_eq!(feed.repeat(NO, 10), []);
        assert_eq!(feed.finish().as_slice(), []);
    }

    #[test]
    fn a_short_silence_is_part_of_the_segment() {
        let mut feed = Feed::new();
        let events: Vec<SegmentEvent> =
            [(YES, 10), (NO, 4), (YES, 1), (NO, 10)].into_iter().flat_map(|(p, count)| feed.repeat(p, count)).collect();
        assert_eq!(events, [started(0, 0), ended(0, 0, 15 * WINDOW + PAD)]);
    }

    #[test]
    fn a_probability_between_the_thresholds_neither_begins_nor_ends_anything() {
        let mut feed = Feed::new();
        let between = 0.4;
        assert_eq!(feed.repeat(between, 20), []);
        feed.repeat(YES, 10);
        assert_eq!(feed.repeat(between, 20), []);
        assert_eq!(feed.push(NO).as_slice(), []);
        assert_eq!(feed.repeat(between, 20), [], "the silence has begun, and is long enough, but only silence ends it");
        assert_eq!(feed.push(NO).as_slice(), [ended(0, 20 * WINDOW - PAD, 50 * WINDOW + PAD)]);
    }

    #[test]
    fn short_speech_is_dropped_and_takes_no_number() {
        let mut feed = Feed::new();
        assert_eq!(feed.repeat(YES, 7), []);
        assert_eq!(feed.repeat(NO, 10), []);
        assert_eq!(feed.repeat(YES, 8), [started(0, 17 * WINDOW - PAD)]);
    }

    #[test]
    fn the_end_of_the_feed_closes_a_segment_without_padding_beyond_it() {
        let mut feed = Feed::new();
        feed.repeat(YES, 9);
        feed.push(NO);
        feed.push_of(NO, 100);
        assert_eq!(feed.finish().as_slice(), [ended(0, 0, 10 * WINDOW + 100)]);
    }

    #[test]
    fn the_end_of_the_feed_may_be_what_makes_a_segment_long_enough() {
        let mut feed = Feed::new();
        assert_eq!(feed.repeat(YES, 7), []);
        assert_eq!(feed.repeat(NO, 2), []);
        assert_eq!(feed.finish().as_slice(), [started(0, 0), ended(0, 0, 9 * WINDOW)]);
        assert_eq!(feed.repeat(YES, 7), []);
        assert_eq!(feed.finish().as_slice(), [], "7 windows are too short");
    }

    #[test]
    fn a_flush_in_a_segment_makes_two_that_touch() {
        let mut feed = Feed::new();
        feed.repeat(YES, 10);
        feed.push_of(YES, 100);
        let flushed_at = 10 * WINDOW + 100;
        assert_eq!(feed.finish().as_slice(), [ended(0, 0, flushed_at)]);
        assert_eq!(feed.repeat(YES, 8), [started(1, flushed_at)], "no padding into the neighbour");
        assert_eq!(feed.repeat(NO, 5), [ended(1, flushed_at, flushed_at + 8 * WINDOW + PAD)]);
    }

    #[test]
    fn a_flush_ends_a_silence_that_was_too_short() {
        let mut feed = Feed::new();
        feed.repeat(YES, 10);
        feed.repeat(NO, 3);
        feed.finish();
        assert_eq!(feed.repeat(NO, 5), []);
        assert_eq!(feed.finish().as_slice(), []);
    }

    #[test]
    fn new_rules_apply_to_a_segment_that_is_open() {
        let mut feed = Feed::new();
        feed.repeat(YES, 10);
        assert_eq!(feed.finder.silence_start_sample(), None);
        feed.repeat(NO, 2);
        assert_eq!(feed.finder.silence_start_sample(), Some(10 * WINDOW));
        feed.finder.set_rules(SegmentRules { min_silence_ms: 320, ..SegmentRules::default() }, RATE_HZ);
        assert_eq!(feed.repeat(NO, 8), [], "the tenth window of silence begins 288 ms after the silence");
        assert_eq!(feed.push(NO).as_slice(), [ended(0, 0, 10 * WINDOW + PAD)]);
        assert_eq!(feed.finder.silence_start_sample(), None);
        assert_eq!(feed.repeat(YES, 8), [started(1, 21 * WINDOW - PAD)], "numbers go on");
    }

    #[test]
    fn windows_without_a_probability_change_nothing() {
        let mut feed = Feed::new();
        feed.repeat(YES, 7);
        assert_eq!(feed.repeat(None, 10), []);
        assert_eq!(feed.repeat(f32::NAN, 10), []);
        assert_eq!(feed.push(NO).as_slice(), [started(0, 0)], "the silence begins after the gap, which is then inside");
        assert_eq!(feed.repeat(None, 10), []);
        assert_eq!(feed.push(NO).as_slice(), [ended(0, 0, 27 * WINDOW + PAD)]);
    }

    #[test]
    fn one_step_may_bring_beginning_and_end() {
        let rules = SegmentRules { min_speech_ms: 0, min_silence_ms: 0, pad_ms: 0, ..SegmentRules::default() };
        let mut feed = Feed { finder: SegmentFinder::new(rules, RATE_HZ), ..Feed::new() };
        assert_eq!(feed.push(YES).as_slice(), [started(0, 0)]);
        assert_eq!(feed.push(NO).as_slice(), [ended(0, 0, WINDOW)]);

        let rules = SegmentRules { min_speech_ms: 40, ..rules };
        let mut feed = Feed { finder: SegmentFinder::new(rules, RATE_HZ), ..Feed::new() };
        feed.push(YES);
        feed.push(None);
        assert_eq!(feed.push(NO).as_slice(), [started(0, 0), ended(0, 0, 2 * WINDOW)]);
    }

    #[test]
    fn milliseconds_are_rounded_to_the_nearest() {
        let segment = Segment { index: 0, start_sample: 7, end_sample: 8 };
        assert_eq!((segment.start_ms(RATE_HZ), segment.end_ms(RATE_HZ)), (0, 1));
        assert_eq!(ms_of_sample(u64::MAX, 1), u64::MAX);
        assert_eq!(ms_of_sample(16_000, 0), 0);
    }

    #[test]
    fn the_default_rules_are_valid_and_every_fault_is_named() {
        assert_eq!(SegmentRules::default().validate(), Vec::<String>::new());
        let bad = SegmentRules { threshold: f32::NAN, negative_threshold: 1.0, min_silence_ms: 59, ..SegmentRules::default() };
        let faults = bad.validate();
        assert_eq!(faults.len(), 3, "{faults:?}");
        for (fault, part) in faults.iter().zip(["threshold is NaN", "negative_threshold is 1;", "min_silence_ms is 59"]) {
            assert!(fault.contains(part), "{fault}");
        }
        let crossed = SegmentRules { negative_threshold: 0.5, ..SegmentRules::default() };
        assert!(crossed.validate()[0].contains("negative_threshold is 0.5; it must be less than threshold"));
        assert_eq!(SegmentRules::negative_threshold_below(0.1), 0.01);
    }

    /// What happens to a feed, as random tests see it.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Window(Option<f32>),
        /// A padded window of this many samples (none for 0), and the end of what came before.
        Flush(Option<f32>, u64),
    }

    fn probability() -> impl Strategy<Value = Option<f32>> {
        prop_oneof![
            5 => Just(Some(YES)),
            5 => Just(Some(NO)),
            5 => (0.0_f32..=1.0).prop_map(Some),
            1 => Just(None),
            1 => Just(Some(f32::NAN)),
        ]
    }

    /// Runs of equal probabilities, as in speech, with a flush here and there.
    fn feed() -> impl Strategy<Value = Vec<Step>> {
        let run = prop_oneof![
            8 => (probability(), 1_usize..14).prop_map(|(probability, count)| vec![Step::Window(probability); count]),
            1 => (probability(), 0..WINDOW).prop_map(|(probability, samples)| vec![Step::Flush(probability, samples)]),
        ];
        prop::collection::vec(run, 0..30).prop_map(|runs| runs.concat())
    }

    fn rules() -> impl Strategy<Value = SegmentRules> {
        (0.05_f32..0.95, 0.1_f32..0.95, 0_u32..400, 0_u32..70, 0_u32..200).prop_map(|(threshold, ratio, speech, pad, more)| {
            SegmentRules {
                threshold,
                negative_threshold: threshold * ratio,
                min_speech_ms: speech,
                min_silence_ms: 2 * pad + more,
                pad_ms: pad,
            }
        })
    }

    /// The published algorithm over a finished stretch: first all boundaries, then the filter, then the padding, in
    /// floating-point samples.
    fn offline(rules: &SegmentRules, rate_hz: u32, windows: &[(f32, u64)], total: u64) -> Vec<(u64, u64)> {
        let samples = |ms: u32| f64::from(rate_hz) * f64::from(ms) / 1000.0;
        let mut raw: Vec<(u64, u64)> = Vec::new();
        let mut i = 0;
        while i < windows.len() {
            let (first, start) = windows[i];
            i += 1;
            if first < rules.threshold {
                continue;
            }
            let mut end = total;
            let mut silence = None;
            while i < windows.len() {
                let (p, at) = windows[i];
                i += 1;
                if p >= rules.threshold {
                    silence = None;
                } else if p < rules.negative_threshold {
                    let since = *silence.get_or_insert(at);
                    if (at - since) as f64 >= samples(rules.min_silence_ms) {
                        end = since;
                        break;
                    }
                }
            }
            raw.push((start, end));
        }
        raw.retain(|(start, end)| (end - start) as f64 > samples(rules.min_speech_ms));
        let pad = samples(rules.pad_ms);
        raw.iter()
            .map(|(start, end)| {
                ((*start as f64 - pad).max(0.0).floor() as u64, (*end as f64 + pad).min(total as f64).floor() as u64)
            })
            .collect()
    }

    /// The offline algorithm over each stretch between flushes; a start never reaches back over the end before it.
    fn expected(rules: &SegmentRules, rate_hz: u32, steps: &[Step]) -> Vec<(u64, u64)> {
        let (mut sample, mut stretch, mut segments) = (0, Vec::new(), Vec::new());
        let mut end_stretch = |stretch: &mut Vec<(f32, u64)>, total: u64| {
            for (start, end) in offline(rules, rate_hz, stretch, total) {
                let previous_end = segments.last().map_or(0, |(_, end)| *end);
                segments.push((start.max(previous_end), end));
            }
            stretch.clear();
        };
        for step in steps {
            let (probability, length) = match *step {
                Step::Window(probability) => (probability, WINDOW),
                Step::Flush(probability, length) => (probability, length),
            };
            stretch.extend(probability.filter(|p| !p.is_nan() && length > 0).map(|p| (p, sample)));
            sample += length;
            if let Step::Flush(..) = step {
                end_stretch(&mut stretch, sample);
            }
        }
        end_stretch(&mut stretch, sample);
        segments
    }

    fn play(rules: SegmentRules, rate_hz: u32, steps: &[Step]) -> Vec<SegmentEvent> {
        let mut feed = Feed { finder: SegmentFinder::new(rules, rate_hz), ..Feed::new() };
        let mut events = Vec::new();
        for step in steps {
            match *step {
                Step::Window(probability) => events.extend(feed.push(probability)),
                Step::Flush(probability, samples) => {
                    if samples > 0 {
                        events.extend(feed.push_of(probability, samples));
                    }
                    events.extend(feed.finish());
                }
            }
        }
        events.extend(feed.finish());
        events
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn the_segments_are_those_of_the_published_algorithm(
            rules in prop_oneof![Just(SegmentRules::default()), rules()],
            rate_hz in prop_oneof![Just(8_000_u32), Just(16_000), Just(11_025), Just(44_100)],
            steps in feed(),
        ) {
            prop_assert_eq!(rules.validate(), Vec::<String>::new());
            let events = play(rules, rate_hz, &steps);
            let mut found = Vec::new();
            for pair in events.chunks(2) {
                let [SegmentEvent::Started { index, start_sample }, SegmentEvent::Ended(segment)] = pair else {
                    return Err(TestCaseError::fail(format!("not a start and an end: {pair:?}")));
                };
                prop_assert_eq!((*index, *start_sample), (segment.index, segment.start_sample));
                prop_assert_eq!(*index, found.len() as u64);
                found.push((segment.start_sample, segment.end_sample));
            }
            prop_assert_eq!(found, expected(&rules, rate_hz, &steps));
        }

        #[test]
        fn a_start_is_announced_only_if_every_continuation_keeps_it(steps in feed(), silent in any::<bool>()) {
            let rules = SegmentRules::default();
            let mut cut: Vec<Step> = Vec::new();
            let mut feed = Feed::new();
            for step in steps {
                cut.push(step);
                let Step::Window(probability) = step else { break };
                if feed.push(probability).iter().any(|event| matches!(event, SegmentEvent::Started { .. })) {
                    // The shortest and the longest that the segment can still become.
                    cut.extend([Step::Window(Some(if silent { 0.0 } else { 1.0 })); 20]);
                    prop_assert!(!expected(&rules, RATE_HZ, &cut).is_empty());
                    break;
                }
            }
        }

        #[test]
        fn nothing_panics_and_nothing_overlaps_whatever_the_rules_and_positions(
            thresholds in (any::<f32>(), any::<f32>()),
            durations in (any::<u32>(), any::<u32>(), any::<u32>()),
            rate_hz in any::<u32>(),
            steps in prop::collection::vec((any::<Option<f32>>(), any::<u64>(), any::<u64>(), any::<bool>()), 0..50),
        ) {
            let (threshold, negative_threshold) = thresholds;
            let (min_speech_ms, min_silence_ms, pad_ms) = durations;
            let rules = SegmentRules { threshold, negative_threshold, min_speech_ms, min_silence_ms, pad_ms };
            let _ = rules.validate();
            let mut finder = SegmentFinder::new(rules, rate_hz);
            let mut previous_end = 0;
            for (index, (probability, start_sample, end_sample, flush)) in (0..).zip(steps) {
                let mut events = finder.push(probability, &WindowPosition { index, start_sample, end_sample });
                if flush {
                    events.extend(finder.finish(end_sample));
                }
                for event in events {
                    if let SegmentEvent::Ended(segment) = event {
                        prop_assert!(previous_end <= segment.start_sample && segment.start_sample <= segment.end_sample);
                        previous_end = segment.end_sample;
                    }
                }
            }
        }
    }
}
