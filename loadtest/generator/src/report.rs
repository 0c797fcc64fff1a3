//! The results of a scenario, as a table for people or as JSON lines for programs.

use std::fmt::Write as _;

use serde_json::{Map, Number, Value};

/// A figure or a name.
#[derive(Debug, Clone)]
pub(crate) enum Cell {
    Text(String),
    Count(u64),
    /// A number, and how many decimals a table shows.
    Figure(f64, usize),
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl Cell {
    fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(count) => count.to_string(),
            Self::Figure(figure, decimals) => format!("{figure:.decimals$}"),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => Value::String(text.clone()),
            Self::Count(count) => Value::from(*count),
            Self::Figure(figure, _) => Number::from_f64(*figure).map_or(Value::Null, Value::Number),
        }
    }
}

/// Rows under named columns; the names carry the units.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    columns: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    /// Why the run counts as failed, if it does.
    pub(crate) reasons: Vec<String>,
}

impl Report {
    pub(crate) fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new(), reasons: Vec::new() }
    }

    /// A table with one row.
    pub(crate) fn single(fields: Vec<(&'static str, Cell)>) -> Self {
        let (columns, row) = fields.into_iter().unzip();
        Self { columns, rows: vec![row], reasons: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub(crate) fn json_lines(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let object: Map<String, Value> =
                self.columns.iter().zip(row).map(|(column, cell)| ((*column).to_owned(), cell.json())).collect();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", Value::Object(object));
        }
        text
    }

    /// One line per row; a single row is printed vertically.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        if let [row] = &self.rows[..] {
            let width = self.columns.iter().map(|column| column.len()).max().unwrap_or(0);
            for (column, cell) in self.columns.iter().zip(row) {
                let _ = writeln!(text, "{column:<width$}  {}", cell.shown());
            }
            return text;
        }
        let shown: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(Cell::shown).collect()).collect();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                shown.iter().map(|row| row[column].chars().count()).chain([self.columns[column].len()]).max().unwrap_or(0)
            })
            .collect();
        let header = self.columns.iter().map(|column| (*column).to_owned()).collect();
        for row in std::iter::once(&header).chain(&shown) {
            let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
            let _ = writeln!(text, "{}", cells.join("  "));
        }
        text
    }
}
