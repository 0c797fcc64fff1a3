//! The output of client commands: records, each with a text form and a JSON form.

use std::fmt;

use serde::Serialize;

/// Where the text form of a record goes. The JSON form always goes to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Standard output.
    Results,
    /// Standard error.
    Notes,
    /// Nowhere: the record is for pipes only.
    Nowhere,
}

/// Something that a command prints. `Display` is its text form, without the last line break.
pub(super) trait Record: Serialize + fmt::Display {
    /// The one key of its JSON object.
    const KIND: &'static str;

    /// Where its text form goes.
    fn place(&self) -> Place {
        Place::Results
    }
}
