//! What miners commit to: which model they submit.
//!
//! | text | |
//! | --- | --- |
//! | `v4\|REPOSITORY\|sha256:…` | a repository at Hippius, pinned by its manifest |
//! | `v4\|REPOSITORY\|sha256:…\|HOTKEY` | the same, with the author, who has to be the signer |
//! | `v7\|REPOSITORY\|PIN` | pinned by `sha256:…` at Hippius, or by a git revision at Hugging Face |
//! | `vN\|REPOSITORY\|PIN` | the same in a later competition, whose version `N` is above 7 |

use std::fmt;

use albedo_core::Digest;
use albedo_core::chain::Hotkey;
use serde::{Deserialize, Serialize};

/// The version of the first competition's commitments; every later one has a higher version.
pub const FIRST_VERSION: u8 = 7;

/// The longest repository name that is read: both hubs allow less.
const MAX_REPOSITORY: usize = 256;

/// A submission, as it was committed to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Submission {
    /// Version of the text: 4 or 7, above 7 in a later competition.
    pub version: u8,
    /// Name of the repository, with its namespace.
    pub repository: String,
    /// What pins its content.
    pub pin: Pin,
}

/// What pins the content of a repository.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pin {
    /// SHA-256 of an OCI manifest.
    Manifest(Digest),
    /// A git revision: 40 or 64 hexadecimal digits.
    Revision(String),
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(digest) => write!(f, "sha256:{digest}"),
            Self::Revision(revision) => f.write_str(revision),
        }
    }
}

impl fmt::Display for Submission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}|{}|{}", self.version, self.repository, self.pin)
    }
}

/// Why a text is no submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// It does not begin with a version that is known.
    Version,
    /// It does not begin with the version of the competition.
    Competition {
        /// The competition's version.
        version: u8,
    },
    /// Too few or too many parts.
    Parts,
    /// A repository name that no hub has.
    Repository,
    /// A pin that pins nothing: a tag, a branch, a short revision.
    Pin,
    /// It names another author than its signer.
    Spoofed {
        /// Whom it names.
        author: Hotkey,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version => f.write_str("it begins neither with `v4|` nor with `v7|`"),
            Self::Competition { version } => {
                write!(f, "it does not begin with `v{version}|`, as the competition's commitments do")
            }
            Self::Parts => f.write_str("it has not the parts of its version"),
            Self::Repository => f.write_str("its repository is no `namespace/name` of a hub"),
            Self::Pin => f.write_str("its pin is no digest, and no full git revision"),
            Self::Spoofed { author } => write!(f, "it names {author} as its author, who did not sign it"),
        }
    }
}

/// The submission that `text`, signed by `signer`, commits to.
///
/// ```
/// use albedo_chain::reveal::parse;
/// use albedo_core::chain::Hotkey;
///
/// let text = format!("v7|someone/albedo-qwen3-4b-x|sha256:{}", "ab".repeat(32));
/// let submission = parse(&text, &Hotkey("5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV".into())).unwrap();
/// assert_eq!(submission.repository, "someone/albedo-qwen3-4b-x");
/// assert_eq!(submission.to_string(), text);
/// ```
///
/// # Errors
/// The first rule that it breaks.
pub fn parse(text: &str, signer: &Hotkey) -> Result<Submission, Refusal> {
    read(text, signer, &[4, FIRST_VERSION]).unwrap_or(Err(Refusal::Version))
}

/// The same in the competition whose commitments have `version`: the first one, of version
/// [`FIRST_VERSION`], takes version 4, too.
///
/// ```
/// use albedo_chain::reveal::{Refusal, parse_of};
/// use albedo_core::chain::Hotkey;
///
/// let signer = Hotkey("5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV".into());
/// let text = format!("v8|someone/model|sha256:{}", "ab".repeat(32));
/// assert_eq!(parse_of(&text, &signer, 8).unwrap().version, 8);
/// assert_eq!(parse_of(&text, &signer, 9), Err(Refusal::Competition { version: 9 }));
/// ```
///
/// # Errors
/// The first rule that it breaks.
pub fn parse_of(text: &str, signer: &Hotkey, version: u8) -> Result<Submission, Refusal> {
    if version <= FIRST_VERSION {
        return parse(text, signer);
    }
    read(text, signer, &[version]).unwrap_or(Err(Refusal::Competition { version }))
}

/// The submission of one of `versions`; `None` if the text begins with none of them.
fn read(text: &str, signer: &Hotkey, versions: &[u8]) -> Option<Result<Submission, Refusal>> {
    let mut parts = text.split('|');
    let first = parts.next()?;
    let version = versions.iter().copied().find(|version| first == format!("v{version}"))?;
    Some(parts_of(version, parts, signer))
}

fn parts_of<'a>(
    version: u8,
    mut parts: impl Iterator<Item = &'a str>,
    signer: &Hotkey,
) -> Result<Submission, Refusal> {
    let (repository, pin, author) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(repository), Some(pin), None, None) => (repository, pin, None),
        (Some(repository), Some(pin), Some(author), None) if version == 4 => (repository, pin, Some(author)),
        _ => return Err(Refusal::Parts),
    };
    if !is_repository(repository, version) {
        return Err(Refusal::Repository);
    }
    let pin = match pin.strip_prefix("sha256:") {
        Some(digits) if is_hex(digits, &[64]) => {
            Pin::Manifest(digits.parse().map_err(|_: albedo_core::Error| Refusal::Pin)?)
        }
        None if version >= FIRST_VERSION && is_hex(pin, &[40, 64]) => Pin::Revision(pin.to_owned()),
        _ => return Err(Refusal::Pin),
    };
    match author {
        Some(author) if author != signer.0 => Err(Refusal::Spoofed { author: Hotkey(author.to_owned()) }),
        _ => Ok(Submission { version, repository: repository.to_owned(), pin }),
    }
}

/// The text in revealed bytes. The Python SDK puts a SCALE length before it,
/// others do not; both are read.
///
/// # Errors
/// Why it is no text.
pub fn text(bytes: &[u8]) -> Result<String, String> {
    let body = without_length(bytes).unwrap_or(bytes);
    match std::str::from_utf8(body) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(format!("it is not UTF-8 from byte {} on", error.valid_up_to())),
    }
}

/// The bytes after a SCALE compact length, if there is one that fits exactly.
fn without_length(bytes: &[u8]) -> Option<&[u8]> {
    let first = *bytes.first()?;
    let width = match first & 0b11 {
        0 => 1,
        1 => 2,
        2 => 4,
        _ => return None,
    };
    let (prefix, body) = bytes.split_at_checked(width)?;
    let length = prefix.iter().rev().fold(0_usize, |length, byte| length << 8 | usize::from(*byte)) >> 2;
    (length == body.len()).then_some(body)
}

/// Names of hubs: segments of letters, digits, dots, dashes and underscores
/// that do not begin with one of these; the older form is lower case.
fn is_repository(name: &str, version: u8) -> bool {
    let segment = |segment: &str| {
        let letter = |byte: &u8| {
            byte.is_ascii_digit() || byte.is_ascii_lowercase() || (version > 4 && byte.is_ascii_uppercase())
        };
        let bytes = segment.as_bytes();
        bytes.first().is_some_and(letter) && bytes.iter().all(|byte| letter(byte) || b"._-".contains(byte))
    };
    name.len() <= MAX_REPOSITORY && name.contains('/') && name.split('/').all(segment)
}

fn is_hex(text: &str, lengths: &[usize]) -> bool {
    lengths.contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn signer() -> Hotkey {
        Hotkey("5DfhGyQdFobKM8NsWvEeAKk5EQQgYe9AydgJ7rMB6E1EqRzV".into())
    }

    #[test]
    fn every_known_form_is_read() {
        let (digest, git) = ("ab".repeat(32), "0f".repeat(20));
        for (text, repository, pin) in [
            (format!("v4|a/b|sha256:{digest}"), "a/b", format!("sha256:{digest}")),
            (
                format!("v4|a/b/c_1.x-y|sha256:{digest}|{}", signer()),
                "a/b/c_1.x-y",
                format!("sha256:{digest}"),
            ),
            (format!("v7|Some-One/Model|sha256:{digest}"), "Some-One/Model", format!("sha256:{digest}")),
            (format!("v7|a/b|{git}"), "a/b", git.clone()),
            (format!("v7|a/b|{digest}"), "a/b", digest.clone()),
        ] {
            let submission = parse(&text, &signer()).expect(&text);
            assert_eq!((submission.repository.as_str(), submission.pin.to_string()), (repository, pin));
        }
    }

    #[test]
    fn what_breaks_a_rule_is_refused_by_it() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let spoofed = Refusal::Spoofed { author: Hotkey("5Other".into()) };
        for (text, refusal) in [
            (String::new(), Refusal::Version),
            (format!("v5|a/b|{digest}"), Refusal::Version),
            (format!(" v7|a/b|{digest}"), Refusal::Version),
            ("v7".into(), Refusal::Parts),
            ("v7|a/b".into(), Refusal::Parts),
            (format!("v7|a/b|{digest}|{}", signer()), Refusal::Parts),
            (format!("v4|a/b|{digest}|{}|x", signer()), Refusal::Parts),
            (format!("v4|a/b|{digest}|5Other"), spoofed),
            (format!("v4|A/b|{digest}"), Refusal::Repository),
            (format!("v7|a|{digest}"), Refusal::Repository),
            (format!("v7|a/../b|{digest}"), Refusal::Repository),
            (format!("v7|a//b|{digest}"), Refusal::Repository),
            (format!("v7|a/b/|{digest}"), Refusal::Repository),
            (format!("v7|a/b c|{digest}"), Refusal::Repository),
            (format!("v7|a/{}|{digest}", "b".repeat(300)), Refusal::Repository),
            ("v7|a/b|main".into(), Refusal::Pin),
            ("v7|a/b|0f0f0f0".into(), Refusal::Pin),
            (format!("v7|a/b|{}", digest.to_uppercase()), Refusal::Pin),
            (format!("v7|a/b|sha256:{}", "AB".repeat(32)), Refusal::Pin),
            (format!("v4|a/b|{}", "0f".repeat(20)), Refusal::Pin),
        ] {
            assert_eq!(parse(&text, &signer()), Err(refusal), "{text}");
        }
    }

    #[test]
    fn text_is_read_with_and_without_its_length() {
        for plain in ["", "v7|a/b|x", &"x".repeat(63), &"x".repeat(64), &"x".repeat(20_000)] {
            let length = plain.len();
            let prefix = match length {
                0..64 => vec![(length << 2) as u8],
                64..16_384 => ((length << 2 | 1) as u16).to_le_bytes().to_vec(),
                _ => ((length << 2 | 2) as u32).to_le_bytes().to_vec(),
            };
            assert_eq!(text(&[&prefix, plain.as_bytes()].concat()).as_deref(), Ok(plain));
            assert_eq!(text(plain.as_bytes()).as_deref(), Ok(plain));
        }
        assert!(text(&[0x76, 0xff]).expect_err("no text").contains("byte 1"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(text) = text(&bytes) {
                let _ = parse(&text, &signer());
            }
        }

        #[test]
        fn what_is_read_is_written_the_same(version in prop_oneof![Just(4_u8), Just(7)], name in "[a-z0-9]{1,9}/[a-z0-9._-]{0,9}", pin in "[0-9a-f]{64}") {
            let text = format!("v{version}|{name}|sha256:{pin}");
            if let Ok(submission) = parse(&text, &signer()) {
                prop_assert_eq!(submission.to_string(), text);
            }
        }
    }
}
