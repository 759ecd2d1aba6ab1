//! Which model, as people write it ([`ModelChoice`]). [`crate::load`] loads it.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use segfleet_common::{
    package::{PackageRef, PackageRefError},
    subject::{BUILT_IN_MODELS, ModelName},
};

use crate::segment;

/// A model as people write it: what is a file or looks like one is a package, unless it is the name of a model that is
/// built in; other names are those of packages in the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelChoice {
    /// A model without a package.
    Named(ModelName),
    /// A folder, a tar or an ONNX file.
    Package(PathBuf),
    /// A package that the broker keeps.
    Stored(PackageRef),
}

impl FromStr for ModelChoice {
    type Err = PackageRefError;

    fn from_str(text: &str) -> Result<Self, PackageRefError> {
        let looks_like_a_file =
            text.contains('/') || text.ends_with(".tar") || text.ends_with(".onnx");
        let is_a_file = || Path::new(text).exists() && !BUILT_IN_MODELS.contains(&text);
        if looks_like_a_file || is_a_file() {
            return Ok(Self::Package(text.into()));
        }
        let reference: PackageRef = text.parse()?;
        if reference.version.is_none() && segment::is_built_in(&reference.name) {
            return Ok(Self::Named(reference.name));
        }
        Ok(Self::Stored(reference))
    }
}

impl fmt::Display for ModelChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => name.fmt(f),
            Self::Package(path) => path.display().fmt(f),
            Self::Stored(reference) => reference.fmt(f),
        }
    }
}

impl ModelChoice {
    /// The package that is asked for, if it is one that the broker keeps.
    pub(crate) fn stored(&self) -> Option<&PackageRef> {
        match self {
            Self::Stored(reference) => Some(reference),
            Self::Named(_) | Self::Package(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_file_is_a_package() {
        let choice = |text: &str| {
            text.parse()
                .map_err(|error: PackageRefError| error.to_string())
        };
        let named = |name: &str| Ok(ModelChoice::Named(name.parse().expect("a token")));
        let package = |path: &str| Ok(ModelChoice::Package(path.into()));
        assert_eq!(choice("mock"), named("mock"));
        let stored = |name: &str| Ok(ModelChoice::Stored(name.parse().expect("a package's name")));
        assert_eq!(choice("u2netp"), stored("u2netp"));
        assert_eq!(choice("u2netp@1.0"), stored("u2netp@1.0"));
        assert_eq!(choice("./u2netp"), package("./u2netp"));
        assert_eq!(choice("u2netp.tar"), package("u2netp.tar"));
        assert_eq!(choice("src"), package("src"), "a folder where tests run");
        assert!(choice("a b").is_err());
    }
}
