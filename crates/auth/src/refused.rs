//! Why a credential is refused, and what its caller learns about that.

use std::fmt;

use tidemill_domain::{Fault, FaultKind};

/// Longest token.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Why a credential is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// `authorization` is neither `Bearer` nor `Key` with a key behind it, or the text is not a key's.
    Malformed,
    /// Nobody has this key.
    UnknownKey,
    /// No rule fits the certificate.
    UnknownCertificate,
    /// The key, or the rule for the certificate, has expired.
    Expired,
    /// A key or token came over a connection that others can read.
    InTheOpen,
    /// A token is not good.
    Token(TokenFault),
}

impl Refused {
    /// What the caller learns.
    #[must_use]
    pub fn fault(self) -> Fault {
        let message = match self {
            Self::Malformed => {
                "the credential is neither a key nor a token: send `authorization: Bearer KEY`, `authorization: Key KEY` or \
                 `x-api-key: KEY`"
            }
            Self::UnknownKey => "the key is not known here, or has been revoked",
            Self::UnknownCertificate => "nobody is known here by this client certificate",
            Self::Expired => "the credential has expired",
            Self::InTheOpen => {
                "keys and tokens are not taken over plain TCP from another machine, where others can read them: use TLS, \
                 or ask the operator for security.plain_keys"
            }
            Self::Token(fault) => return Fault::new(FaultKind::Unauthenticated, fault.to_string()),
        };
        Fault::new(FaultKind::Unauthenticated, message)
    }
}

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFault {
    /// It has more than [`TOKEN_BYTES_MAX`] bytes.
    TooLong,
    /// It is not a token, or not one that is signed by an algorithm known here.
    Malformed,
    /// It names a key that is not known, or several fit.
    UnknownKey,
    /// It is signed by an algorithm that its key does not use.
    Algorithm,
    /// Its signature is not its key's.
    Signature,
    /// It is from another issuer.
    Issuer,
    /// It is for somebody else.
    Audience,
    /// Its time is over, or it has no end.
    Expired,
    /// It was lent to a caller that is no longer known, or about which the keys file says something else now.
    LenderGone,
    /// Its time has not come.
    NotYet,
    /// It does not say whose it is, or not in a form that is known.
    Claims,
}

impl fmt::Display for TokenFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "the token is longer than 8192 bytes",
            Self::Malformed => "the token is no JWT that is signed with RS, PS, ES256, ES384 or EdDSA",
            Self::UnknownKey => "the token names no key that is known here (security.jwks)",
            Self::Algorithm => "the token is signed by an algorithm that its key does not use",
            Self::Signature => "the signature of the token is wrong",
            Self::Issuer => "the token is not from the issuer that security.jwt_issuer names",
            Self::Audience => "the token is not for the audience that security.jwt_audience names",
            Self::Expired => "the token has expired, or does not say when it does",
            Self::LenderGone => "the caller that was lent this token may no longer call: ask for a new one",
            Self::NotYet => "the token is not valid yet",
            Self::Claims => {
                "the token does not say whose it is: `sub` must be text, the scopes text or a list, and the tenant a name of up to 128 \
                 letters, digits, '-', '_', '.' and '@'"
            }
        })
    }
}
