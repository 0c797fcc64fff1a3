//! Tests of the whole, one file per topic.

mod audio;
mod modes;
mod promtool;
mod serving;
mod session;
mod tidy;
