//! Model packages as the broker keeps them: their names and versions, and what is known of each.
//!
//! What is inside a package is the worker's business; how packages are stored is [`crate::broker`]'s.

use std::{fmt, str::FromStr};

use thiserror::Error;
use time::OffsetDateTime;

use crate::{
    limits::TOKEN_CHARS,
    subject::{ModelName, TokenError},
};

/// Sets name and version apart.
const AT: char = '@';

/// A version of a model, as its maker writes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackageVersion(String);

/// A name that no package can have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PackageRefError {
    /// The model's name is not a token.
    #[error(transparent)]
    Name(#[from] TokenError),
    /// The version has other characters, or too many.
    #[error(
        "version {0:?} must be 1 to {TOKEN_CHARS} characters of A-Z, a-z, 0-9, '_', '-' and '.'"
    )]
    Version(String),
}

impl FromStr for PackageVersion {
    type Err = PackageRefError;

    fn from_str(value: &str) -> Result<Self, PackageRefError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if value.is_empty() || value.len() > TOKEN_CHARS || !value.bytes().all(allowed) {
            return Err(PackageRefError::Version(value.to_owned()));
        }
        Ok(Self(value.to_owned()))
    }
}

impl fmt::Display for PackageVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A model, or one version of it: `u2netp`, `u2netp@1.0`.
///
/// ```
/// use segfleet_common::package::PackageRef;
///
/// let one: PackageRef = "u2netp@1.0".parse()?;
/// assert_eq!(one.name.to_string(), "u2netp");
/// assert_eq!(one.to_string(), "u2netp@1.0");
/// assert!("u2netp".parse::<PackageRef>()?.version.is_none());
/// # Ok::<(), segfleet_common::package::PackageRefError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackageRef {
    /// The model.
    pub name: ModelName,
    /// The version; without it, the one pushed last.
    pub version: Option<PackageVersion>,
}

impl FromStr for PackageRef {
    type Err = PackageRefError;

    fn from_str(value: &str) -> Result<Self, PackageRefError> {
        let (name, version) = match value.split_once(AT) {
            Some((name, version)) => (name, Some(version.parse()?)),
            None => (value, None),
        };
        Ok(Self {
            name: name.parse()?,
            version,
        })
    }
}

impl fmt::Display for PackageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{}{AT}{version}", self.name),
            None => self.name.fmt(f),
        }
    }
}

/// What a package says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageInfo {
    /// The model's name, which is a token of its jobs' subject.
    pub name: ModelName,
    /// Its version.
    pub version: PackageVersion,
    /// SHA-256 of its content, 64 hexadecimal digits.
    pub digest: String,
    /// The licence of the weights, in a few words.
    pub licence: String,
    /// What it finds, in a few words.
    pub task: String,
}

/// A package that the broker keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPackage {
    /// What it says of itself.
    pub info: PackageInfo,
    /// Who pushed it.
    pub pushed_by: String,
    /// When.
    pub pushed_at: OffsetDateTime,
    /// Its size.
    pub size_bytes: u64,
}

impl StoredPackage {
    /// Its full name.
    #[must_use]
    pub fn reference(&self) -> PackageRef {
        PackageRef {
            name: self.info.name.clone(),
            version: Some(self.info.version.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_versions_are_checked() {
        for good in ["m", "m@1", "m-2@2026.11-rc_1"] {
            let parsed: PackageRef = good.parse().expect(good);
            assert_eq!(parsed.to_string(), good);
        }
        for bad in ["", "@1", "m@", "m@1@2", "m.1", "m@a b", "a/b"] {
            assert!(bad.parse::<PackageRef>().is_err(), "{bad}");
        }
    }
}
