//! rten
