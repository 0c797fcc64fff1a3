//! Callers, and what they may do: credentials go in, and an [`Entry`] of the keys file or a reason to refuse comes out.
//!
//! Pure: reads no file, no clock and no connection. The caller hands in the file's text, the time and what the connection shows.
//! No secret is ever part of a `Debug` form or of an error.

mod date;
mod entry;
mod file;
mod glob;
mod key;
mod keys;
mod mint;
mod presented;
mod refused;
mod scope;
mod token;

pub use date::{format_utc, parse_utc};
pub use entry::{Entry, Proof, Quotas, WEIGHT_MAX, is_name};
pub use file::{FILE_BYTES_MAX, KEYS_MAX, KeysFaults, OTHERS, Tenant};
pub use glob::Glob;
pub use key::{Digest, Key};
pub use keys::Keys;
pub use mint::{Grant, Mint, TOKEN_LIFE_S};
pub use presented::{Credential, Presented, Secret};
pub use refused::{Refused, TOKEN_BYTES_MAX, TokenFault};
pub use scope::{Scope, Scopes};
pub use token::{ISSUER_KEYS_BYTES_MAX, IssuerKeys, KeyMark, TokenRules};
