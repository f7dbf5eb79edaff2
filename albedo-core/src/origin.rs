//! Which builds ran a duel, and what no key vouches for.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// One build of albedo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// The version of the package.
    pub version: String,
    /// Digest of the sources that it was built from; none if the program does not
    /// know them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Digest>,
}

impl Default for Build {
    /// This crate's version, without a source.
    fn default() -> Self {
        Self { version: env!("CARGO_PKG_VERSION").into(), source: None }
    }
}

/// How a record came about. It stands beside the plan and changes no verdict; nothing
/// but the word of those who ran the duel backs it. Since record format 3.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Origin {
    /// The builds that ran the duel, in the order in which they joined it.
    pub builds: Vec<Build>,
    /// A run went on from a journal that no key of its own vouched for
    /// ([`crate::record::JournalKey`]): somebody else may have written its answers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchained: bool,
}

impl Origin {
    /// Notes that `build`, if it is known, ran the duel.
    pub(crate) fn add(&mut self, build: Option<Build>) {
        if let Some(build) = build.filter(|build| !self.builds.contains(build)) {
            self.builds.push(build);
        }
    }
}
