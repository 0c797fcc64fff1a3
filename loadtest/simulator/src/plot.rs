//! Plots of the study, as SVG.

use tidemill_plot::{Axis, Chart, Line};

use crate::{
    curve::CurveName,
    point::LOADS,
    sweep::{OTHERS, Row, ratio},
};

/// Share of the points at or below a ratio, for each policy.
pub(crate) fn ratios(rows: &[Row]) -> String {
    let line = |index: usize, label: &str, goodput: &dyn Fn(&Row) -> f64| {
        let mut ratios: Vec<f64> = rows.iter().map(|row| ratio(goodput(row), row.best.goodput)).collect();
        ratios.sort_by(f64::total_cmp);
        let steps = (0..=200).map(|step| f64::from(step) * 1.1 / 200.0);
        let below = |at: f64| ratios.partition_point(|ratio| *ratio <= at) as f64 / ratios.len().max(1) as f64;
        let points = steps.map(|at| (at, below(at))).collect();
        Line { label: label.to_owned(), colour: index, points, ..Line::default() }
    };
    let mut lines = vec![line(0, "tidemill", &|row| row.tidemill.goodput)];
    for (index, kind) in OTHERS.iter().enumerate() {
        lines.push(line(index + 1, &kind.label(), &|row| row.others[index]));
    }
    let (x, y) =
        (Axis::equal("goodput relative to the best setting of the point", 1.1, 11), Axis::equal("share of points", 1.0, 5));
    Chart { title: "How near each policy comes to the best hand-set batching".to_owned(), x, y, lines }.file()
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
            Line { label, dashed, colour: index, points, ..Line::default() }
        };
        lines.push(line(true, of(&|row| row.best.goodput)));
        lines.push(line(false, of(&|row| row.tidemill.goodput)));
    }
    let marks = LOADS.iter().enumerate().map(|(place, load)| (place as f64, load.to_string())).collect();
    let (x, y) = (Axis::marked("load", marks), Axis::equal("goodput", 1.0, 5));
    Chart { title: "Goodput by load: Tidemill, and dashed the best setting of each point".to_owned(), x, y, lines }.file()
}
