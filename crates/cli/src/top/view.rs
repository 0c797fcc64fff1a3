//! The state of the full screen: the last report, the selected model, and whether the server still answers.
//!
//! A plain value that is notified of what happens; draws nothing, waits for nothing and reads no clock.

use std::time::Duration;

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::time::Instant;

use super::{
    report::{ModelFigures, Report},
    scrape::ScrapeFault,
};

/// The next step of the code that runs the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Carry on.
    Stay,
    /// End.
    Quit,
    /// End as Ctrl-C does: in raw mode, the terminal gives it as a key.
    Interrupt,
}

/// A server that does not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outage {
    /// Since its last answer.
    pub(super) lasted: Duration,
    pub(super) reason: ScrapeFault,
}

/// The state of the screen.
#[derive(Debug)]
pub(super) struct View {
    latest: Report,
    /// What is shown instead of the latest while it is paused.
    frozen: Option<Report>,
    answered: Instant,
    outage: Option<Outage>,
    selected: usize,
    help: bool,
}

impl View {
    /// Shows a first report.
    pub(super) const fn new(first: Report, now: Instant) -> Self {
        Self { latest: first, frozen: None, answered: now, outage: None, selected: 0, help: false }
    }

    /// The report to show.
    pub(super) fn report(&self) -> &Report {
        self.frozen.as_ref().unwrap_or(&self.latest)
    }

    /// The index of the selected model, unless there is none at all.
    pub(super) fn selected(&self) -> Option<usize> {
        self.report().models.len().checked_sub(1).map(|last| self.selected.min(last))
    }

    /// The selected model.
    pub(super) fn selected_model(&self) -> Option<&ModelFigures> {
        self.selected().map(|index| &self.report().models[index])
    }

    pub(super) const fn is_paused(&self) -> bool {
        self.frozen.is_some()
    }

    pub(super) const fn shows_help(&self) -> bool {
        self.help
    }

    pub(super) const fn outage(&self) -> Option<&Outage> {
        self.outage.as_ref()
    }

    /// The server answered. The same model stays selected even if there are others now.
    pub(super) fn answer(&mut self, report: Report, now: Instant) {
        (self.answered, self.outage) = (now, None);
        let selected = self.selected_model().map(|model| (model.name.clone(), model.version.clone()));
        self.latest = report;
        if !self.is_paused() {
            self.select(selected);
        }
    }

    /// The server did not answer.
    pub(super) fn fault(&mut self, reason: ScrapeFault, now: Instant) {
        self.outage = Some(Outage { lasted: now - self.answered, reason });
    }

    /// A key went down.
    pub(super) fn key(&mut self, key: KeyEvent) -> Step {
        if key.kind == KeyEventKind::Release {
            return Step::Stay;
        }
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return Step::Interrupt,
            KeyCode::Char('q') => return Step::Quit,
            KeyCode::Esc if self.help => self.help = false,
            KeyCode::Char('?') => self.help = !self.help,
            KeyCode::Char('p') => self.pause(),
            KeyCode::Up | KeyCode::Char('k') => self.selected = self.selected().unwrap_or(0).saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => self.selected = self.selected().unwrap_or(0) + 1,
            _ => {}
        }
        self.selected = self.selected().unwrap_or(0);
        Step::Stay
    }

    fn pause(&mut self) {
        let selected = self.selected_model().map(|model| (model.name.clone(), model.version.clone()));
        self.frozen = if self.is_paused() { None } else { Some(self.latest.clone()) };
        self.select(selected);
    }

    fn select(&mut self, wanted: Option<(String, String)>) {
        let is_wanted = |model: &ModelFigures| {
            wanted.as_ref().is_some_and(|(name, version)| *name == model.name && *version == model.version)
        };
        self.selected = self.report().models.iter().position(is_wanted).unwrap_or(self.selected);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::report::tests::report, *};

    fn press(view: &mut View, keys: &[KeyCode]) -> Vec<Step> {
        keys.iter().map(|code| view.key(KeyEvent::new(*code, KeyModifiers::NONE))).collect()
    }

    fn selected(view: &View) -> (&str, &str) {
        view.selected_model().map(|model| (model.name.as_str(), model.version.as_str())).expect("there are models")
    }

    #[test]
    fn keys_select_a_model_and_stop_at_both_ends() {
        let mut view = View::new(report(true), Instant::now());
        assert_eq!(selected(&view), ("magika", "1"));
        press(&mut view, &[KeyCode::Up, KeyCode::Down]);
        assert_eq!(selected(&view), ("vad", "6"));
        press(&mut view, &[KeyCode::Char('j'), KeyCode::Char('j'), KeyCode::Down]);
        assert_eq!(selected(&view), ("vad", "10"));
        press(&mut view, &[KeyCode::Char('k')]);
        assert_eq!(selected(&view), ("vad", "6"));
    }

    #[test]
    fn the_selected_model_stays_selected_when_others_come_and_go() {
        let now = Instant::now();
        let mut view = View::new(report(true), now);
        press(&mut view, &[KeyCode::Down]);
        let mut fewer = report(false);
        fewer.models.remove(0);
        view.answer(fewer.clone(), now);
        assert_eq!(selected(&view), ("vad", "6"));
        view.answer(report(false), now);
        assert_eq!(selected(&view), ("vad", "6"));
        press(&mut view, &[KeyCode::Down]);
        fewer.models.truncate(1);
        view.answer(fewer.clone(), now);
        assert_eq!(selected(&view), ("vad", "6"), "the one that was selected is gone");
        fewer.models.clear();
        view.answer(fewer, now);
        assert_eq!(view.selected(), None);
        press(&mut view, &[KeyCode::Down, KeyCode::Up]);
    }

    #[test]
    fn a_pause_holds_the_report_and_its_end_shows_the_latest() {
        let now = Instant::now();
        let mut view = View::new(report(true), now);
        press(&mut view, &[KeyCode::Down, KeyCode::Char('p')]);
        let mut later = report(false);
        later.models.remove(0);
        view.answer(later.clone(), now);
        assert_eq!((view.is_paused(), view.report()), (true, &report(true)));
        press(&mut view, &[KeyCode::Char('p')]);
        assert_eq!((view.is_paused(), view.report()), (false, &later));
        assert_eq!(selected(&view), ("vad", "6"));
    }

    #[test]
    fn an_outage_lasts_from_the_last_answer_to_the_next() {
        let now = Instant::now();
        let mut view = View::new(report(true), now);
        let reason = ScrapeFault::NoAnswer("refused".to_owned());
        view.answer(report(false), now + Duration::from_secs(1));
        view.fault(reason.clone(), now + Duration::from_secs(5));
        assert_eq!(view.outage(), Some(&Outage { lasted: Duration::from_secs(4), reason }));
        view.answer(report(false), now + Duration::from_secs(6));
        assert_eq!(view.outage(), None);
    }

    #[test]
    fn q_quits_and_ctrl_c_interrupts_and_a_key_that_goes_up_does_nothing() {
        let mut view = View::new(report(true), Instant::now());
        assert_eq!(press(&mut view, &[KeyCode::Char('x'), KeyCode::Char('q')]), [Step::Stay, Step::Quit]);
        assert_eq!(view.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Step::Interrupt);
        let up = KeyEvent::new_with_kind(KeyCode::Char('q'), KeyModifiers::NONE, KeyEventKind::Release);
        assert_eq!(view.key(up), Step::Stay);
        press(&mut view, &[KeyCode::Char('?')]);
        assert!(view.shows_help());
        press(&mut view, &[KeyCode::Esc]);
        assert!(!view.shows_help());
    }
}
