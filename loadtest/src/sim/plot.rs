//! Plots of the study, as SVG. Draws lines on axes and nothing else.

use std::fmt::Write as _;

use crate::{
    curve::CurveName,
    point::LOADS,
    sweep::{OTHERS, Row, ratio},
};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 180.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 48.0;
/// Told apart by those who see colours differently, too (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#555555"];

/// An axis: what it shows, where its marks are, and what they say.
struct Axis<'a> {
    label: &'a str,
    marks: Vec<(f64, String)>,
}

impl Axis<'_> {
    fn share(&self, value: f64) -> f64 {
        let (first, last) = (self.marks[0].0, self.marks[self.marks.len() - 1].0);
        ((value - first) / (last - first)).clamp(0.0, 1.0)
    }
}

struct Line {
    label: String,
    dashed: bool,
    colour: &'static str,
    points: Vec<(f64, f64)>,
}

/// Share of the points at or below a ratio, for each policy.
pub(crate) fn ratios(rows: &[Row]) -> String {
    let line = |index: usize, label: &str, goodput: &dyn Fn(&Row) -> f64| {
        let mut ratios: Vec<f64> = rows.iter().map(|row| ratio(goodput(row), row.best.goodput)).collect();
        ratios.sort_by(f64::total_cmp);
        let steps = (0..=200).map(|step| f64::from(step) * 1.1 / 200.0);
        let below = |at: f64| ratios.partition_point(|ratio| *ratio <= at) as f64 / ratios.len().max(1) as f64;
        let points = steps.map(|at| (at, below(at))).collect();
        Line { label: label.to_owned(), dashed: false, colour: COLOURS[index], points }
    };
    let mut lines = vec![line(0, "tidemill", &|row| row.tidemill.goodput)];
    for (index, kind) in OTHERS.iter().enumerate() {
        lines.push(line(index + 1, &kind.label(), &|row| row.others[index]));
    }
    let (x, y) = (axis("goodput relative to the best setting of the point", 1.1, 11), axis("share of points", 1.0, 5));
    chart("How near each policy comes to the best hand-set batching", &x, &y, &lines)
}

/// Mean goodput by load, for each curve: Tidemill and, dashed, the best setting of each point.
pub(crate) fn goodput(rows: &[Row]) -> String {
    let mut lines = Vec::new();
    for (index, curve) in CurveName::ALL.into_iter().enumerate() {
        let of = |goodput: &dyn Fn(&Row) -> f64| {
            let loads = LOADS.iter().enumerate();
            let mean = |load: f64| {
                let chosen = rows.iter().filter(|row| row.point.curve == curve && row.point.load == load);
                let (count, sum) = chosen.fold((0_u32, 0.0), |(count, sum), row| (count + 1, sum + goodput(row)));
                (count > 0).then(|| sum / f64::from(count))
            };
            loads.filter_map(|(place, load)| Some((place as f64, mean(*load)?))).collect()
        };
        let line = |dashed, points| {
            let label = if dashed { String::new() } else { curve.label().to_owned() };
            Line { label, dashed, colour: COLOURS[index], points }
        };
        lines.push(line(true, of(&|row| row.best.goodput)));
        lines.push(line(false, of(&|row| row.tidemill.goodput)));
    }
    let marks = LOADS.iter().enumerate().map(|(place, load)| (place as f64, load.to_string())).collect();
    let x = Axis { label: "load", marks };
    chart("Goodput by load: Tidemill, and dashed the best setting of each point", &x, &axis("goodput", 1.0, 5), &lines)
}

/// From zero to `last` in equal steps.
fn axis(label: &str, last: f64, steps: usize) -> Axis<'_> {
    let mark = |step: usize| last * step as f64 / steps as f64;
    Axis { label, marks: (0..=steps).map(|step| (mark(step), format!("{:.1}", mark(step)))).collect() }
}

fn chart(title: &str, x: &Axis<'_>, y: &Axis<'_>, lines: &[Line]) -> String {
    let at_x = |value: f64| LEFT + x.share(value) * (WIDTH - LEFT - RIGHT);
    let at_y = |value: f64| HEIGHT - BOTTOM - y.share(value) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n<text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{title}</text>\n"
    );
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    for (value, label) in &x.marks {
        let at = at_x(*value);
        let _ = writeln!(svg, "<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#e5e5e5\"/>");
        let _ = writeln!(svg, "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>", bottom + 16.0);
    }
    for (value, label) in &y.marks {
        let at = at_y(*value);
        let _ = writeln!(svg, "<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#e5e5e5\"/>");
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 6.0, at + 4.0);
    }
    let middle = LEFT.midpoint(right);
    let _ = writeln!(svg, "<text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>", HEIGHT - 10.0, x.label);
    let (turned, centre) = (14.0, TOP.midpoint(bottom));
    let _ =
        writeln!(svg, "<text transform=\"translate({turned} {centre}) rotate(-90)\" text-anchor=\"middle\">{}</text>", y.label);
    let mut row = 0.0;
    for Line { label, dashed, colour, points } in lines {
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{:.1} {:.1}", at_x(*x), at_y(*y))).collect();
        let dashes = if *dashed { " stroke-dasharray=\"4 3\"" } else { "" };
        let _ = writeln!(svg, "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dashes}/>", path.join("L"));
        if !label.is_empty() {
            let at = TOP + 14.0 + row * 18.0;
            let (from, to, text) = (right + 12.0, right + 32.0, right + 38.0);
            let _ = writeln!(svg, "<path d=\"M{from} {at:.1}H{to}\" stroke=\"{colour}\" stroke-width=\"2\"/>");
            let _ = writeln!(svg, "<text x=\"{text}\" y=\"{:.1}\">{label}</text>", at + 4.0);
            row += 1.0;
        }
    }
    svg + "</svg>\n"
}
