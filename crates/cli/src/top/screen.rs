//! Draws the view on a terminal of any size: what does not fit is left out, and nothing overlaps.
//!
//! Knows where things go; the texts come from `cells` and `text`, which the plain report uses too.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::Line,
};

use super::{
    cells::{COLUMNS, Grid, NONE, cost_grid, details, wrapped},
    text::{fault_lines, lane_grid, method_grid, summary},
    view::{Outage, View},
};

/// Lines above the table of models and at the bottom: the summary and the keys.
const FRAME_ROWS: u16 = 3;

const TITLE: Style = Style::new().add_modifier(Modifier::BOLD);
const QUIET: Style = Style::new().add_modifier(Modifier::DIM);
const SELECTED: Style = Style::new().add_modifier(Modifier::REVERSED);
const ALARM: Style = Style::new().fg(Color::White).bg(Color::Red);

/// Draws it.
pub(super) fn draw(frame: &mut Frame<'_>, view: &View) {
    let area = frame.area();
    let banner_rows = u16::from(view.outage().is_some());
    // A title and a row for each model, as long as two thirds are left for the rest.
    let models = u16::try_from(view.report().models.len()).unwrap_or(u16::MAX);
    let table_rows = models.saturating_add(1).min((area.height.saturating_sub(FRAME_ROWS) / 3).max(2));
    let rows = [2, banner_rows, table_rows].map(Constraint::Length);
    let [summary_area, banner, table, below, keys] =
        Layout::vertical([rows[0], rows[1], rows[2], Constraint::Min(0), Constraint::Length(1)]).areas(area);
    draw_lines(frame, summary_area, summary(view.report()).map(|text| Line::styled(text, TITLE)));
    if let Some(outage) = view.outage() {
        frame.render_widget(Line::styled(alarm(view, outage), ALARM).style(ALARM), banner);
    }
    if view.shows_help() {
        draw_help(frame, table.union(below));
    } else {
        draw_models(frame, table, view);
        draw_below(frame, below, view);
    }
    draw_lines(frame, keys, [Line::styled(key_line(view), QUIET)]);
}

fn alarm(view: &View, Outage { lasted, reason }: &Outage) -> String {
    format!("no answer from {} for {} s, trying again: {reason}", view.report().admin, lasted.as_secs())
}

fn key_line(view: &View) -> String {
    let pause = if view.is_paused() { "PAUSED, p to resume" } else { "p pause" };
    let help = if view.shows_help() { "? back" } else { "? help" };
    format!("q quit   ↑↓ jk model   {pause}   {help}")
}

fn draw_models(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let grid = Grid::of_models(&view.report().models, area.width.into());
    let selected = view.selected().unwrap_or(0);
    let rows = usize::from(area.height.saturating_sub(1));
    // Scrolled just far enough to show the selected one in the last row.
    let first = (selected + 1).saturating_sub(rows);
    let models = grid.lines().enumerate().skip(first).map(|(index, text)| {
        let style = if index == selected { SELECTED } else { Style::new() };
        Line::styled(text, style)
    });
    draw_lines(frame, area, [Line::styled(grid.title_line(), TITLE.patch(QUIET))].into_iter().chain(models));
}

/// The selected model on the left, methods and lanes on the right.
fn draw_below(frame: &mut Frame<'_>, area: Rect, view: &View) {
    let [left, _, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(2), Constraint::Fill(1)]).areas(area);
    draw_lines(frame, left, model_lines(view, left.width.into()));
    draw_lines(frame, right, load_lines(view, right));
}

fn model_lines(view: &View, width: usize) -> Vec<Line<'static>> {
    let Some(model) = view.selected_model() else { return vec![Line::default(), Line::from("no model")] };
    let state = match model.ready {
        Some(false) => ", not ready",
        _ => "",
    };
    let mut lines = vec![Line::default(), Line::styled(format!("{} {}{state}", model.name, model.version), TITLE)];
    let listed = details(model).into_iter().flat_map(|(label, entries)| wrapped(label, &entries, width));
    lines.extend(listed.map(Line::from));
    lines.push(Line::default());
    lines.extend(grid_lines(&cost_grid(model)));
    lines
}

fn load_lines(view: &View, area: Rect) -> Vec<Line<'static>> {
    let (methods, lanes) = (&view.report().methods, &view.report().lanes);
    let mut lines = vec![Line::default()];
    lines.extend(grid_lines(&method_grid(methods)));
    lines.extend(fault_lines(methods, area.width.into()).into_iter().map(Line::from));
    lines.push(Line::default());
    lines.extend(grid_lines(&lane_grid(lanes)));
    let room = usize::from(area.height);
    if lines.len() > room && room > 0 {
        let hidden = lines.len() - room + 1;
        lines.truncate(room - 1);
        lines.push(Line::styled(format!("{hidden} more lines need a taller terminal"), QUIET));
    }
    lines
}

/// A grid's titles and rows; a dash if it has none.
fn grid_lines(grid: &Grid) -> Vec<Line<'static>> {
    let mut lines = vec![Line::styled(grid.title_line(), TITLE.patch(QUIET))];
    lines.extend(grid.lines().map(Line::from));
    if lines.len() == 1 {
        lines.push(Line::from(NONE));
    }
    lines
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let columns = Grid::new(["column", ""], []).title_line();
    let width = COLUMNS.iter().map(|column| column.title.len()).max().unwrap_or(0);
    let meanings = COLUMNS.iter().map(|column| Line::from(format!("{:<width$}  {}", column.title, column.help)));
    draw_lines(frame, area, [Line::styled(columns, TITLE)].into_iter().chain(meanings));
}

/// Draws lines from the top of an area, as many and as much of each as fits.
fn draw_lines<'a>(frame: &mut Frame<'_>, area: Rect, lines: impl IntoIterator<Item = Line<'a>>) {
    for (row, line) in area.rows().zip(lines) {
        frame.render_widget(line, row);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
    use ratatui::{Terminal, backend::TestBackend, buffer::Buffer};
    use tokio::time::Instant;

    use super::{
        super::{report::tests::report, scrape::ScrapeFault},
        *,
    };

    fn view(keys: &[KeyCode]) -> View {
        let mut view = View::new(report(true), Instant::now());
        view.answer(report(false), Instant::now());
        for code in keys {
            view.key(KeyEvent::new(*code, KeyModifiers::NONE));
        }
        view
    }

    fn drawn(view: &View, width: u16, height: u16) -> Buffer {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal.draw(|frame| draw(frame, view)).expect("it draws");
        terminal.backend().buffer().clone()
    }

    fn rows(buffer: &Buffer) -> Vec<String> {
        let rows = buffer.content().chunks(buffer.area.width.into());
        rows.map(|cells| cells.iter().map(ratatui::buffer::Cell::symbol).collect()).collect()
    }

    /// Row and column where a text begins.
    fn find(rows: &[String], text: &str) -> (usize, usize) {
        let found = rows.iter().enumerate().find_map(|(row, line)| Some((row, line[..line.find(text)?].chars().count())));
        found.unwrap_or_else(|| panic!("no {text:?} in\n{}", rows.join("\n")))
    }

    #[test]
    fn eighty_columns_show_what_matters_most_without_overlap() {
        let buffer = drawn(&view(&[KeyCode::Down]), 80, 24);
        let rows = rows(&buffer);
        assert!(rows[0].starts_with("tidemill 0.1.0 at 127.0.0.1:9464, up 1h 02m, cpu 130%"), "{}", rows[0]);
        assert!(rows[1].starts_with("lanes 50% busy, streams 13 open 3 stalled – unread, connections 3"), "{}", rows[1]);
        assert!(rows[2].starts_with("model "), "{}", rows[2]);
        for title in ["in/s", "ok/s", "drop/s", "exp/s", "queue", "batch", "wait99"] {
            assert_eq!(find(&rows, title).0, 2, "{title}");
        }
        assert!(!rows[2].contains("pad"), "{}", rows[2]);
        assert!(rows[4].starts_with("vad 6 ") && rows[4].contains(" 500  "), "{}", rows[4]);
        assert!(buffer[(0, 4)].modifier.contains(Modifier::REVERSED) && !buffer[(0, 3)].modifier.contains(Modifier::REVERSED));
        // The selected model is on the left of the gap, methods and lanes are on the right.
        assert_eq!(find(&rows, "closed   knee 80%, lane_free 20%").1, 0);
        assert_eq!(find(&rows, "16      2.0ms     8000").1, 0);
        assert_eq!((find(&rows, "method").1, find(&rows, "lane  ").1), (41, 41));
        let (above, keys) = (&rows[7..23], &rows[23]);
        assert!(above.iter().all(|row| row.chars().skip(39).take(2).all(|cell| cell == ' ')), "\n{}", rows.join("\n"));
        assert!(keys.starts_with("q quit   ↑↓ jk model   p pause   ? help"), "{keys}");
    }

    #[test]
    fn a_wide_terminal_shows_every_column() {
        let rows = rows(&drawn(&view(&[KeyCode::Down]), 160, 50));
        for column in &COLUMNS {
            assert_eq!(find(&rows, column.title).0, 2, "{}", column.title);
        }
        for text in ["oldest 25.0", "high p50 5.0ms p99 9.9ms", "feed     expired 10.0", "10    100%      2.0"] {
            find(&rows, text);
        }
    }

    #[test]
    fn the_selected_row_is_on_the_screen_however_many_there_are() {
        let mut many = report(false);
        let last = many.models[2].clone();
        many.models
            .extend((11..40).map(|version| super::super::report::ModelFigures { version: version.to_string(), ..last.clone() }));
        let mut view = View::new(many, Instant::now());
        for _ in 0..50 {
            view.key(KeyEvent::from(KeyCode::Down));
        }
        let rows = rows(&drawn(&view, 80, 24));
        assert_eq!(find(&rows, "vad 39").0, 8);
        assert_eq!(find(&rows, "closed").1, 0);
    }

    #[test]
    fn a_server_that_is_gone_shows_in_red_over_the_last_report() {
        let mut view = view(&[]);
        view.fault(ScrapeFault::NoAnswer("Connection refused".to_owned()), Instant::now() + Duration::from_secs(12));
        let buffer = drawn(&view, 80, 24);
        let rows = rows(&buffer);
        assert!(rows[2].starts_with("no answer from 127.0.0.1:9464 for 12 s, trying again: Connection refused"), "{}", rows[2]);
        assert_eq!((buffer[(0, 2)].bg, buffer[(79, 2)].bg), (Color::Red, Color::Red));
        assert!(rows[3].starts_with("model ") && rows[5].starts_with("vad 6 "));
    }

    #[test]
    fn help_and_pause_are_shown() {
        let help = rows(&drawn(&view(&[KeyCode::Char('?')]), 80, 24));
        for column in &COLUMNS {
            find(&help, column.help);
        }
        find(&help, "? back");
        find(&rows(&drawn(&view(&[KeyCode::Char('p')]), 80, 24)), "PAUSED");
    }

    #[test]
    fn no_size_is_too_small_to_draw_on() {
        let mut views = [view(&[]), view(&[KeyCode::Char('?')]), View::new(report(true), Instant::now())];
        views[2].fault(ScrapeFault::NoAnswer("gone".to_owned()), Instant::now());
        for (width, height) in [(1, 1), (2, 3), (7, 24), (20, 5), (80, 1), (80, 4), (300, 100)] {
            for view in &views {
                assert_eq!(drawn(view, width, height).area, Rect::new(0, 0, width, height));
            }
        }
    }

    #[test]
    fn what_does_not_fit_below_is_counted() {
        let rows = rows(&drawn(&view(&[]), 80, 14));
        find(&rows, "more lines need a taller terminal");
    }
}
