//! Measured figures, and the values that they should have.

use crate::report::{Cell, Report};

/// The wanted value of a figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Wanted {
    AtMost(f64),
    AtLeast(f64),
    /// Anything: the figure only explains others.
    Anything,
}

impl Wanted {
    fn shown(self) -> String {
        match self {
            Self::AtMost(limit) => format!("<= {}", short(limit)),
            Self::AtLeast(limit) => format!(">= {}", short(limit)),
            Self::Anything => String::new(),
        }
    }

    fn met(self, figure: f64) -> &'static str {
        let met = match self {
            Self::AtMost(limit) => figure <= limit,
            Self::AtLeast(limit) => figure >= limit,
            Self::Anything => return "",
        };
        if met { "yes" } else { "NO" }
    }
}

/// At most three decimals, and no meaningless ones.
fn short(figure: f64) -> String {
    let text = format!("{figure:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A table with one figure per row.
pub(crate) struct Findings {
    report: Report,
    unmet: Vec<String>,
}

impl Findings {
    pub(crate) fn new() -> Self {
        Self { report: Report::new(&["arm", "figure", "measured", "wanted", "met"]), unmet: Vec::new() }
    }

    /// Adds a figure; its name carries the unit. A table shows three decimals at most.
    pub(crate) fn add(&mut self, arm: &str, figure: &str, measured: f64, wanted: Wanted) {
        let decimals = if measured.abs() >= 100.0 || measured.fract() == 0.0 { 0 } else { 3 };
        let wanted_text = wanted.shown();
        if wanted.met(measured) == "NO" {
            self.unmet.push(format!("{arm}: {figure} is {measured:.decimals$}, but should be {wanted_text}"));
        }
        self.report.row(vec![
            arm.into(),
            figure.into(),
            Cell::Figure(measured, decimals),
            wanted_text.as_str().into(),
            wanted.met(measured).into(),
        ]);
    }

    pub(crate) fn report(self) -> Report {
        self.report
    }

    /// A report that counts as failed if a figure is not what it should be, or for the given reasons.
    pub(crate) fn strict_report(self, reasons: Vec<String>) -> Report {
        let Self { mut report, unmet } = self;
        report.reasons = [unmet, reasons].concat();
        report
    }
}

/// Jain's index of fairness: 1 if all shares are equal, 1/n if one has everything.
pub(crate) fn jain_index(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|share| share * share).sum();
    sum * sum / (shares.len() as f64 * squares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_met_up_to_itself() {
        assert_eq!((Wanted::AtMost(2.0).met(2.0), Wanted::AtMost(2.0).met(2.1)), ("yes", "NO"));
        assert_eq!((Wanted::AtLeast(0.95).met(0.95), Wanted::AtLeast(0.95).met(f64::NAN)), ("yes", "NO"));
        assert_eq!(Wanted::AtLeast(0.95).shown(), ">= 0.95");
        assert_eq!(Wanted::AtMost(10.0).shown(), "<= 10");
    }

    #[test]
    fn a_strict_report_says_what_was_not_met() {
        let mut findings = Findings::new();
        findings.add("a", "good", 1.0, Wanted::AtMost(1.0));
        findings.add("b", "bad", 2.0, Wanted::AtMost(1.0));
        let reasons = findings.strict_report(vec!["another".to_owned()]).reasons;
        assert_eq!(reasons, ["b: bad is 2, but should be <= 1", "another"]);
    }

    #[test]
    fn the_index_distinguishes_equal_from_one_sided() {
        assert!((jain_index(&[3.0; 7]) - 1.0).abs() < 1e-12);
        assert!((jain_index(&[5.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-12);
    }
}
