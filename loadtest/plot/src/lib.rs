//! Line charts as SVG, without scripts, light or dark to match the reader's screen.
//!
//! Draws lines on axes and nothing else; knows nothing about what they mean. All text is escaped.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 180.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 48.0;

/// How many lines have different colours; after that, colours repeat.
const COLOURS: usize = 8;

/// How many rows the legend has room for.
const LEGEND_ROWS: usize = 15;

/// How many characters of a label the legend has room for.
const LABEL_CHARS: usize = 22;

/// How many steps an axis is divided into, at most.
const STEPS_MAX: f64 = 6.0;

/// The style that a page needs once for its charts. Colour-blind readers can distinguish the colours too (after Okabe
/// and Ito).
pub const STYLE: &str = "\
.plot{--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#cc79a7;--c4:#b98600;--c5:#56b4e9;--c6:#7d5fb2;--c7:#666;\
--paper:#fff;--ink:#222;--grid:#e5e5e5;background:var(--paper);font-family:system-ui,sans-serif;font-size:12px}\
.plot text{fill:var(--ink)}.plot .title{font-size:14px;font-weight:600}.plot .paper{fill:var(--paper)}\
.plot .grid{stroke:var(--grid);fill:none}.plot .line{fill:none;stroke-width:2;stroke-linejoin:round}\
.plot .c0{stroke:var(--c0)}.plot .c1{stroke:var(--c1)}.plot .c2{stroke:var(--c2)}.plot .c3{stroke:var(--c3)}\
.plot .c4{stroke:var(--c4)}.plot .c5{stroke:var(--c5)}.plot .c6{stroke:var(--c6)}.plot .c7{stroke:var(--c7)}\
.plot .dot{fill:var(--paper);stroke-width:2}.plot .dashed{stroke-dasharray:5 4}\
@media(prefers-color-scheme:dark){.plot{--c0:#4aa8e0;--c1:#ff8a3d;--c2:#2fd0a0;--c3:#e79cc6;--c4:#e6b422;--c5:#9bd6f7;\
--c6:#b9a0e8;--c7:#aaa;--paper:#16181c;--ink:#d8dade;--grid:#33363c}}";

/// `text`, for where markup is read.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // XML has no way to write the others.
            control if control.is_control() && !matches!(control, '\n' | '\t') => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

/// How values are placed on an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scale {
    Linear,
    Log,
    /// Percentiles by how little lies beyond them: it is about as far from 50 to 90 as from 99 to 99.8.
    Tail,
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.max(f64::MIN_POSITIVE).log10(),
            Self::Tail => -(1.0 - value / 100.0).max(1e-9).log10(),
        }
    }
}

/// An axis: what it shows, where its marks are, and what they say. It extends from the first mark to the last.
#[derive(Debug, Clone)]
pub struct Axis {
    label: String,
    marks: Vec<(f64, String)>,
    scale: Scale,
}

impl Axis {
    /// Marks of the caller's choice. An axis with fewer than two marks has no extent, and all values are at its beginning.
    #[must_use]
    pub fn marked(label: &str, marks: Vec<(f64, String)>) -> Self {
        Self { label: label.to_owned(), marks, scale: Scale::Linear }
    }

    /// From zero to `last` in `steps` equal steps, to one decimal.
    #[must_use]
    pub fn equal(label: &str, last: f64, steps: u32) -> Self {
        let mark = |step: u32| last * f64::from(step) / f64::from(steps.max(1));
        Self::marked(label, (0..=steps).map(|step| (mark(step), format!("{:.1}", mark(step)))).collect())
    }

    /// From zero to the next round number from `largest` on.
    #[must_use]
    pub fn from_zero(label: &str, largest: f64) -> Self {
        let largest = if largest.is_finite() && largest > 0.0 { largest } else { 1.0 };
        let rough = largest / STEPS_MAX;
        let decade = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * decade).into_iter().find(|step| *step >= rough * (1.0 - 1e-9));
        let step = step.unwrap_or(10.0 * decade);
        let steps = (largest / step - 1e-9).ceil().max(1.0) as u32;
        Self::marked(label, (0..=steps).map(|number| (f64::from(number) * step, short(f64::from(number) * step))).collect())
    }

    /// On a log scale, from the round number at or below `smallest` to that at or above `largest`; both above zero.
    #[must_use]
    pub fn log(label: &str, smallest: f64, largest: f64) -> Self {
        let smallest = if smallest.is_finite() && smallest > 0.0 { smallest } else { 1.0 };
        let largest = if largest.is_finite() { largest.max(smallest * 2.0) } else { smallest * 2.0 };
        let decades = smallest.log10().floor() as i32..=largest.log10().ceil() as i32;
        let wide = largest / smallest > 1e3;
        let factors: &[f64] = if wide { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let marks: Vec<f64> = decades.flat_map(|decade| factors.iter().map(move |factor| factor * 10_f64.powi(decade))).collect();
        let first = marks.iter().rposition(|mark| *mark <= smallest * (1.0 + 1e-9)).unwrap_or(0);
        let last = marks.iter().position(|mark| *mark >= largest * (1.0 - 1e-9)).unwrap_or(marks.len() - 1);
        let marks = marks[first..=last].iter().map(|mark| (*mark, short(*mark))).collect();
        Self { label: label.to_owned(), marks, scale: Scale::Log }
    }

    /// Percentiles from 50 % to 99.99 %, the rarer ones further out.
    #[must_use]
    pub fn tail(label: &str) -> Self {
        let marks = [50.0, 90.0, 99.0, 99.9, 99.99].map(|percentile| (percentile, format!("{percentile} %")));
        Self { label: label.to_owned(), marks: marks.to_vec(), scale: Scale::Tail }
    }

    /// Where `value` is, from 0 at the first mark to 1 at the last; what is beyond is at the end.
    fn share(&self, value: f64) -> f64 {
        let (Some((first, _)), Some((last, _))) = (self.marks.first(), self.marks.last()) else { return 0.0 };
        let (first, last) = (self.scale.place(*first), self.scale.place(*last));
        let share = (self.scale.place(value) - first) / (last - first);
        if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// A number in few characters, with k, M and G for thousands.
#[must_use]
pub fn short(value: f64) -> String {
    let magnitude = value.abs();
    let (scaled, suffix) = match magnitude {
        giga if giga >= 1e9 => (value / 1e9, "G"),
        mega if mega >= 1e6 => (value / 1e6, "M"),
        kilo if kilo >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let decimals = match scaled.abs() {
        at if at >= 100.0 || at == 0.0 => 0,
        at => (2 - at.log10().floor() as i32).clamp(0, 6) as usize,
    };
    let text = format!("{scaled:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{suffix}")
}

/// A line through points; those that are not finite leave a gap.
#[derive(Debug, Clone, Default)]
pub struct Line {
    /// Shown in the legend, unless it is empty.
    pub label: String,
    pub dashed: bool,
    /// Marks each point.
    pub dotted: bool,
    /// Equal numbers give equal colours.
    pub colour: usize,
    pub points: Vec<(f64, f64)>,
}

/// A whole chart.
#[derive(Debug, Clone)]
pub struct Chart {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
}

impl Chart {
    /// As a separate file.
    #[must_use]
    pub fn file(&self) -> String {
        self.svg(&format!("<style>{STYLE}</style>\n"))
    }

    /// As part of a page that contains [`STYLE`].
    #[must_use]
    pub fn inline(&self) -> String {
        self.svg("")
    }

    fn svg(&self, style: &str) -> String {
        let title = escape(&self.title);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{title}\">\n{style}<rect class=\"paper\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n\
             <text class=\"title\" x=\"{LEFT}\" y=\"20\">{title}</text>\n"
        );
        self.draw_axes(&mut svg);
        for line in &self.lines {
            self.draw_line(&mut svg, line);
        }
        self.draw_legend(&mut svg);
        svg + "</svg>\n"
    }

    fn at(&self, (x, y): (f64, f64)) -> (f64, f64) {
        (LEFT + self.x.share(x) * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - self.y.share(y) * (HEIGHT - TOP - BOTTOM))
    }

    fn draw_axes(&self, svg: &mut String) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (value, label) in &self.x.marks {
            let (at, _) = self.at((*value, 0.0));
            let label = escape(label);
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{at:.1} {TOP}V{bottom}\"/>");
            let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>", bottom + 16.0);
        }
        for (value, label) in &self.y.marks {
            let (_, at) = self.at((0.0, *value));
            let label = escape(label);
            let _ = writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/>");
            let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 6.0, at + 4.0);
        }
        let (middle, x) = (LEFT.midpoint(right), escape(&self.x.label));
        let _ = writeln!(svg, "<text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\">{x}</text>", HEIGHT - 10.0);
        let (turned, centre, y) = (16.0, TOP.midpoint(bottom), escape(&self.y.label));
        let _ = writeln!(svg, "<text transform=\"translate({turned} {centre}) rotate(-90)\" text-anchor=\"middle\">{y}</text>");
    }

    fn draw_line(&self, svg: &mut String, line: &Line) {
        let Line { dashed, dotted, colour, points, .. } = line;
        let class = class(*colour, *dashed);
        let mut path = String::new();
        let mut dots = Vec::new();
        for stretch in points.split(|(x, y)| !x.is_finite() || !y.is_finite()).filter(|stretch| !stretch.is_empty()) {
            for (number, point) in stretch.iter().enumerate() {
                let (x, y) = self.at(*point);
                let _ = write!(path, "{}{x:.1} {y:.1}", if number == 0 { 'M' } else { 'L' });
                // A point without a neighbour would not be visible.
                if *dotted || stretch.len() == 1 {
                    dots.push((x, y));
                }
            }
        }
        if !path.is_empty() {
            let _ = writeln!(svg, "<path class=\"line {class}\" d=\"{path}\"/>");
        }
        for (x, y) in dots {
            let _ = writeln!(svg, "<circle class=\"dot c{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>", colour % COLOURS);
        }
    }

    fn draw_legend(&self, svg: &mut String) {
        let (from, to, text) = (WIDTH - RIGHT + 12.0, WIDTH - RIGHT + 32.0, WIDTH - RIGHT + 38.0);
        let named = self.lines.iter().filter(|line| !line.label.is_empty());
        for (row, line) in named.take(LEGEND_ROWS).enumerate() {
            let at = TOP + 14.0 + row as f64 * 18.0;
            let (class, whole, label) = (class(line.colour, line.dashed), escape(&line.label), escape(&cut(&line.label)));
            let _ = writeln!(svg, "<path class=\"line {class}\" d=\"M{from} {at:.1}H{to}\"/>");
            let _ = writeln!(svg, "<text x=\"{text}\" y=\"{:.1}\"><title>{whole}</title>{label}</text>", at + 4.0);
        }
    }
}

fn class(colour: usize, dashed: bool) -> String {
    format!("c{}{}", colour % COLOURS, if dashed { " dashed" } else { "" })
}

/// The beginning of a label that is too long.
fn cut(label: &str) -> String {
    if label.chars().count() <= LABEL_CHARS {
        return label.to_owned();
    }
    label.chars().take(LABEL_CHARS - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.marks.iter().map(|(_, label)| label.as_str()).collect()
    }

    fn chart(lines: Vec<Line>) -> Chart {
        let (x, y) = (Axis::from_zero("time (s)", 10.0), Axis::log("latency (ms)", 1.0, 100.0));
        Chart { title: "A & B".to_owned(), x, y, lines }
    }

    #[test]
    fn axes_from_zero_end_at_a_round_number() {
        assert_eq!(labels(&Axis::from_zero("", 10.0)), ["0", "2", "4", "6", "8", "10"]);
        assert_eq!(labels(&Axis::from_zero("", 0.31)), ["0", "0.1", "0.2", "0.3", "0.4"]);
        assert_eq!(labels(&Axis::from_zero("", 60_000.0)), ["0", "10k", "20k", "30k", "40k", "50k", "60k"]);
        for strange in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(labels(&Axis::from_zero("", strange)), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        }
    }

    #[test]
    fn log_axes_hold_their_values() {
        assert_eq!(labels(&Axis::log("", 3.0, 40.0)), ["2", "5", "10", "20", "50"]);
        assert_eq!(labels(&Axis::log("", 0.5, 900.0)), ["0.1", "1", "10", "100", "1000"]);
        assert_eq!(labels(&Axis::log("", 1.0, 1.0)), ["1", "2"]);
        assert_eq!(labels(&Axis::log("", 0.0, f64::NAN)), ["1", "2"]);
        let axis = Axis::log("", 1.0, 100.0);
        assert!((axis.share(10.0) - 0.5).abs() < 1e-9);
        assert!(axis.share(0.0).abs() < 1e-9 && (axis.share(1e9) - 1.0).abs() < 1e-9, "what is beyond is at the end");
    }

    #[test]
    fn each_nine_of_a_percentile_is_as_far() {
        let axis = Axis::tail("");
        let [ninety, two, three, four] = [90.0, 99.0, 99.9, 99.99].map(|percentile| axis.share(percentile));
        assert!(((two - ninety) - (three - two)).abs() < 1e-6 && ((three - two) - (four - three)).abs() < 1e-6);
        assert!((axis.share(100.0) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn an_axis_without_extent_divides_by_nothing() {
        for marks in [vec![], vec![(3.0, "3".to_owned())]] {
            assert!(Axis::marked("", marks).share(3.0).abs() < 1e-9);
        }
    }

    #[test]
    fn text_cannot_become_markup() {
        let hostile = "</text><script>alert('1' & \"2\")</script>\u{0}";
        let line = Line { label: hostile.to_owned(), points: vec![(0.0, 1.0), (1.0, 2.0)], ..Line::default() };
        let mut chart = chart(vec![line]);
        chart.title = hostile.to_owned();
        chart.x.label = hostile.to_owned();
        chart.y.marks[0].1 = hostile.to_owned();
        let svg = chart.file();
        assert!(!svg.contains("<script") && !svg.contains("alert('") && !svg.contains('\u{0}'), "{svg}");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }

    #[test]
    fn gaps_split_a_line_and_lone_points_are_visible() {
        let points = vec![(0.0, 1.0), (1.0, 2.0), (2.0, f64::NAN), (3.0, 5.0), (f64::INFINITY, 1.0)];
        let svg = chart(vec![Line { points, ..Line::default() }]).inline();
        let path = svg.lines().find(|line| line.contains("class=\"line")).expect("a line");
        assert_eq!((path.matches('M').count(), path.matches('L').count()), (2, 1), "{path}");
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn legends_stay_in_their_room() {
        let line = |number| Line { label: format!("a very long label of line number {number}"), ..Line::default() };
        let svg = chart((0..40).map(line).collect()).inline();
        assert_eq!(svg.matches("<title>").count(), LEGEND_ROWS);
        assert!(svg.contains("</title>a very long label of …</text>"), "{svg}");
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in
            [(0.0, "0"), (0.25, "0.25"), (12.34, "12.3"), (1000.0, "1000"), (15_200.0, "15.2k"), (2.5e6, "2.5M"), (3e9, "3G")]
        {
            assert_eq!(short(value), text);
        }
    }
}
