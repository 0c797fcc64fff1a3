//! Tests of the whole, one file per topic.

mod promtool;
mod session;
mod tidy;
