//! `run`: an open-loop load that a scenario file describes, and what came of it.
//!
//! `recorder` counts while a run is on and `progress` shows how it goes; `results` is what is there to say when it is over, and
//! `output` writes that as `summary`, `csv` and `html` put it. Knows nothing of the scenarios that are built into this tool, nor of
//! the server's inside.

mod charts;
mod csv;
mod html;
mod machine;
mod output;
mod progress;
mod recorder;
mod results;
#[cfg(test)]
mod sample;
mod summary;
