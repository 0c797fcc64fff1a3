//! Which misbehaving clients there are, how many and how often: the `[chaos]` table of a scenario file. Knows no network.

use serde::{Deserialize, Serialize};

/// The `[chaos]` table. What is left out is not done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ChaosPlan {
    /// Streams that read one answer every `slow_reader_ms` and always have one item in flight.
    pub(crate) slow_readers: u32,
    /// Time between two answers that a slow reader takes, in milliseconds.
    pub(crate) slow_reader_ms: u64,
    /// Streams that send as much as they may and read nothing.
    pub(crate) never_readers: u32,
    /// Streams a second that are reset while items are in flight.
    pub(crate) resets_hz: f64,
    /// Connections a second that are reset (TCP RST) while items of several streams are in flight.
    pub(crate) cuts_hz: f64,
    /// Connections a second that are opened, used for one call and closed.
    pub(crate) churn_hz: f64,
    /// Items a second that are too large.
    pub(crate) giants_hz: f64,
    /// Size of the data of an item that is too large, in bytes.
    pub(crate) giant_bytes: usize,
    /// Connections a second that do not speak the protocol.
    pub(crate) garbage_hz: f64,
    /// Streams that are opened at the start and send only signs of life until the end.
    pub(crate) idle_streams: u32,
}

impl Default for ChaosPlan {
    fn default() -> Self {
        Self {
            slow_readers: 0,
            slow_reader_ms: 200,
            never_readers: 0,
            resets_hz: 0.0,
            cuts_hz: 0.0,
            churn_hz: 0.0,
            giants_hz: 0.0,
            // Above the server's `session.max_item_bytes`, below its `grpc.max_message_bytes`.
            giant_bytes: 5 << 20,
            garbage_hz: 0.0,
            idle_streams: 0,
        }
    }
}

impl ChaosPlan {
    /// The faults in it, each with the key, the value and what is accepted.
    pub(crate) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (key, streams) in
            [("slow_readers", self.slow_readers), ("never_readers", self.never_readers), ("idle_streams", self.idle_streams)]
        {
            if streams > 10_000 {
                faults.push(format!("chaos.{key} = {streams}: is out of range; accepted: 0 to 10000 streams"));
            }
        }
        for (key, rate) in [
            ("resets_hz", self.resets_hz),
            ("cuts_hz", self.cuts_hz),
            ("churn_hz", self.churn_hz),
            ("giants_hz", self.giants_hz),
            ("garbage_hz", self.garbage_hz),
        ] {
            if !(0.0..=1_000.0).contains(&rate) {
                faults.push(format!("chaos.{key} = {rate}: is out of range; accepted: 0 to 1000 a second"));
            }
        }
        if !(1..=60_000).contains(&self.slow_reader_ms) {
            let milliseconds = self.slow_reader_ms;
            faults.push(format!("chaos.slow_reader_ms = {milliseconds}: is out of range; accepted: 1 to 60000 milliseconds"));
        }
        if !(1..=1 << 28).contains(&self.giant_bytes) {
            let bytes = self.giant_bytes;
            faults.push(format!("chaos.giant_bytes = {bytes}: is out of range; accepted: 1 to {} bytes", 1 << 28));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_not_done() {
        let plan: ChaosPlan = serde_json::from_str(r#"{"resets_hz": 2}"#).expect("it is a plan");
        assert_eq!(plan, ChaosPlan { resets_hz: 2.0, ..ChaosPlan::default() });
        assert_eq!(plan.faults(), Vec::<String>::new());
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = serde_json::from_str::<ChaosPlan>(r#"{"reset_hz": 2}"#).expect_err("there is none");
        assert!(error.to_string().contains("reset_hz"), "{error}");
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let plan = ChaosPlan { cuts_hz: f64::NAN, idle_streams: 10_001, slow_reader_ms: 0, ..ChaosPlan::default() };
        let faults = plan.faults();
        assert_eq!(faults.len(), 3, "{faults:?}");
        for key in ["chaos.cuts_hz", "chaos.idle_streams", "chaos.slow_reader_ms"] {
            assert!(faults.iter().any(|fault| fault.starts_with(key)), "{key} in {faults:?}");
        }
    }
}
