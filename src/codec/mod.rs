//! Placeholder.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramingRule {
    pub sample_rate_hz: u32,
    pub window_samples: u32,
    pub context_samples: u32,
}

impl FramingRule {
    pub fn new(sample_rate_hz: u32, window_samples: u32, context_samples: u32) -> Result<Self, String> {
        if sample_rate_hz == 0 || window_samples == 0 {
            return Err("sample_rate_hz and window_samples must be at least 1".to_owned());
        }
        Ok(Self { sample_rate_hz, window_samples, context_samples })
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SegmentRules {
    pub threshold: f32,
    pub negative_threshold: f32,
    pub min_speech_ms: u32,
    pub min_silence_ms: u32,
    pub pad_ms: u32,
}

impl Default for SegmentRules {
    fn default() -> Self {
        Self { threshold: 0.5, negative_threshold: 0.35, min_speech_ms: 250, min_silence_ms: 100, pad_ms: 30 }
    }
}

impl SegmentRules {
    #[must_use]
    pub const fn negative_threshold_below(threshold: f32) -> f32 {
        (threshold - 0.15).max(0.01)
    }

    #[must_use]
    pub fn validate(&self) -> Vec<String> {
        let is_bad = !(self.threshold > 0.0 && self.threshold < 1.0);
        is_bad.then(|| format!("threshold is {}; it must lie between 0 and 1", self.threshold)).into_iter().collect()
    }
}
