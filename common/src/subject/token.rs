//! The tokens that people choose: [`Tenant`], [`ModelName`], [`JobId`].

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};
use thiserror::Error;
use uuid::Uuid;

use crate::limits::{FOREIGN_ID_BYTES, TOKEN_CHARS};

/// A name that cannot be a token of a subject.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{what} {value:?} must be 1 to {TOKEN_CHARS} characters of A-Z, a-z, 0-9, '_' and '-'")]
pub struct TokenError {
    what: &'static str,
    value: String,
}

fn check_token(what: &'static str, value: &str) -> Result<(), TokenError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if value.is_empty() || value.len() > TOKEN_CHARS || !value.bytes().all(allowed) {
        return Err(TokenError {
            what,
            value: value.to_owned(),
        });
    }
    Ok(())
}

/// Who a job belongs to; the default is `public`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(String);

impl Tenant {
    const PUBLIC: &str = "public";

    pub(super) fn is_public(&self) -> bool {
        self.0 == Self::PUBLIC
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self(Self::PUBLIC.to_owned())
    }
}

impl FromStr for Tenant {
    type Err = TokenError;

    fn from_str(value: &str) -> Result<Self, TokenError> {
        check_token("tenant", value)?;
        Ok(Self(value.to_owned()))
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What segments the image.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelName(String);

impl FromStr for ModelName {
    type Err = TokenError;

    fn from_str(value: &str) -> Result<Self, TokenError> {
        check_token("model", value)?;
        Ok(Self(value.to_owned()))
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a job within its tenant; together they are the job's identity.
///
/// Clients choose it: [`JobId::random`], or [`str::parse`] under the rule for tokens. A foreign client may
/// have published under a name that the broker takes and the rule does not; such an id exists only inside
/// a parsed [`JobSubject`](super::JobSubject), so that the job can be answered under the very name it has, and
/// [`JobId::check`] tells it apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(String);

impl JobId {
    /// Makes an id that nobody else has: a UUID of version 7, which sorts by time.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::now_v7().to_string())
    }

    /// Makes the id that this text always leads to, and no other text: a UUID of version 8, cut from its SHA-256.
    pub(crate) fn derived(from: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(from).into();
        let (bytes, _) = digest
            .split_first_chunk()
            .expect("32 bytes are more than 16");
        Self(Uuid::new_v8(*bytes).to_string())
    }

    /// Accepts what the broker accepts as the last token of a subject, up to [`FOREIGN_ID_BYTES`].
    pub(crate) fn from_broker(token: &str) -> Option<Self> {
        let separates = |c: char| matches!(c, '.' | ' ' | '\t' | '\r' | '\n');
        // A wildcard is one only where it is a whole token.
        let valid = !matches!(token, "" | "*" | ">") && !token.contains(separates);
        (valid && token.len() <= FOREIGN_ID_BYTES).then(|| Self(token.to_owned()))
    }

    /// Checks the rule for tokens.
    ///
    /// # Errors
    /// [`TokenError`] when a foreign client broke the rule.
    pub fn check(&self) -> Result<(), TokenError> {
        check_token("job id", &self.0)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for JobId {
    type Err = TokenError;

    fn from_str(value: &str) -> Result<Self, TokenError> {
        check_token("job id", value)?;
        Ok(Self(value.to_owned()))
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_follow_the_rule() {
        let longest = "x".repeat(TOKEN_CHARS);
        for good in ["a", "u2netp", "A-b_9", longest.as_str()] {
            assert!(good.parse::<ModelName>().is_ok(), "{good}");
        }
        let too_long = "x".repeat(TOKEN_CHARS + 1);
        for bad in ["", "a.b", "*", ">", "a b", "ä", "a/b", too_long.as_str()] {
            let error = bad.parse::<ModelName>().expect_err(bad).to_string();
            assert!(
                error.starts_with(&format!("model {bad:?} must be 1 to 64")),
                "{error}"
            );
        }
    }
}
