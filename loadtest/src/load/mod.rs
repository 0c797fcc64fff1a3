//! `run`: an open-loop load that a scenario file describes, and what came of it.
//!
//! `results` is what a run says when it is over, and `recorder` counts towards it while it is on. Knows nothing of the scenarios
//! that are built into this tool, nor of the server's inside.

mod recorder;
mod results;
