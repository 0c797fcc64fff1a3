//! `--set key=value`: changes one value of a scenario before it is checked.
//!
//! Does not know which keys there are: a key without meaning is refused when the whole is read.

use anyhow::{Context as _, bail};
use toml::{Table, Value};

/// Sets the value at a dotted path; numbers index the tables of an array, from 0.
///
/// # Errors
/// If it is not `key=value`, or the path leads through something that is neither table nor array.
pub(crate) fn apply(table: &mut Table, change: &str) -> anyhow::Result<()> {
    let (path, value) = change.split_once('=').with_context(|| format!("--set {change}: it must be KEY=VALUE"))?;
    let path = path.trim();
    let (parents, last) = path.rsplit_once('.').map_or((None, path), |(parents, last)| (Some(parents), last));
    let mut at = Place::Table(table);
    for key in parents.into_iter().flat_map(|parents| parents.split('.')) {
        at = at.enter(key).with_context(|| format!("--set {change}"))?;
    }
    at.put(last, value_of(value.trim())).with_context(|| format!("--set {change}"))
}

/// Read as TOML; what is not TOML is a string.
fn value_of(text: &str) -> Value {
    let read = toml::from_str::<Table>(&format!("value = {text}")).ok();
    // A text with a line break could bring in other keys.
    read.filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Where a path has led to.
enum Place<'a> {
    Table(&'a mut Table),
    Array(&'a mut Vec<Value>),
}

impl<'a> Place<'a> {
    fn enter(self, key: &str) -> anyhow::Result<Self> {
        let value = match self {
            Self::Table(table) => table.entry(key).or_insert_with(|| Value::Table(Table::new())),
            Self::Array(array) => element(array, key)?,
        };
        match value {
            Value::Table(table) => Ok(Self::Table(table)),
            Value::Array(array) => Ok(Self::Array(array)),
            _ => bail!("`{key}` is a value and has nothing inside"),
        }
    }

    fn put(self, key: &str, value: Value) -> anyhow::Result<()> {
        match self {
            Self::Table(table) => {
                if key.is_empty() {
                    bail!("the key is empty");
                }
                table.insert(key.to_owned(), value);
            }
            Self::Array(array) => *element(array, key)? = value,
        }
        Ok(())
    }
}

fn element<'a>(array: &'a mut [Value], key: &str) -> anyhow::Result<&'a mut Value> {
    let length = array.len();
    key.parse::<usize>()
        .ok()
        .and_then(|index| array.get_mut(index))
        .with_context(|| format!("`{key}` is not an index into an array of {length}; they are counted from 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str, change: &str) -> Result<Table, String> {
        let mut table = text.parse().expect("TOML");
        apply(&mut table, change).map_err(|error| format!("{error:#}"))?;
        Ok(table)
    }

    #[test]
    fn a_value_is_toml_or_else_a_string() {
        for (text, value) in [
            ("3", Value::Integer(3)),
            ("0.5", Value::Float(0.5)),
            ("true", Value::Boolean(true)),
            ("[1, 2]", Value::Array(vec![Value::Integer(1), Value::Integer(2)])),
            ("'x'", Value::String("x".to_owned())),
            ("silero-vad", Value::String("silero-vad".to_owned())),
            ("127.0.0.1:1", Value::String("127.0.0.1:1".to_owned())),
            ("1\nb = 2", Value::String("1\nb = 2".to_owned())),
            ("", Value::String(String::new())),
        ] {
            assert_eq!(set("", &format!("key={text}")).expect(text)["key"], value);
        }
    }

    #[test]
    fn paths_go_through_tables_and_arrays() {
        let text = "[[loads]]\nstreams = 1\n[[loads]]\nstreams = 2\narrivals = { rate_hz = 1 }";
        assert_eq!(set(text, "loads.1.streams=7").expect("set")["loads"][1]["streams"], Value::Integer(7));
        assert_eq!(set(text, "loads.1.arrivals.rate_hz = 9").expect("set")["loads"][1]["arrivals"]["rate_hz"], Value::Integer(9));
        assert_eq!(set(text, "ramp.of=rate").expect("a new table")["ramp"]["of"], Value::String("rate".to_owned()));
    }

    #[test]
    fn what_leads_nowhere_is_reported() {
        let text = "name = 'x'\n[[loads]]\nstreams = 1";
        for (change, complaint) in [
            ("loads", "must be KEY=VALUE"),
            ("name.first=1", "`name` is a value"),
            ("loads.1.streams=1", "not an index into an array of 1"),
            ("loads.first.streams=1", "`first` is not an index"),
            ("=1", "the key is empty"),
        ] {
            let error = set(text, change).expect_err(change);
            assert!(error.contains(complaint), "{change}: {error}");
        }
    }
}
