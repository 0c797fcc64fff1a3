//! Tests of the whole, one file per topic.

#![expect(clippy::panic, reason = "a panic is how a test complains, in its helpers too")]

mod audio;
mod binary;
mod cancel;
mod company;
mod conformance;
mod delay;
mod drain;
mod engines;
mod example;
mod feed;
mod folders;
mod garbage;
mod hostile;
mod http;
mod http_client;
mod http_connections;
mod http_documents;
mod infer;
mod instruction_counts;
mod long_calls;
mod metrics;
mod model_facts;
mod modes;
mod no_batch;
mod numbers;
mod padding;
mod predict;
mod promtool;
mod readers;
mod recordings;
mod repository;
mod scan;
mod sequences;
mod serving;
mod session;
mod startup;
mod strings;
mod tidy;
mod top;
mod upload;
mod weights;
