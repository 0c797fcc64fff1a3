//! Code that the tools of this package share.

pub mod plot;
