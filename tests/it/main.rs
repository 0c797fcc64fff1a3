//! Tests of the whole, one file per topic.

mod audio;
mod binary;
mod cancel;
mod drain;
mod engines;
mod feed;
mod garbage;
mod metrics;
mod modes;
mod predict;
mod promtool;
mod scan;
mod serving;
mod session;
mod startup;
mod tidy;
mod upload;
