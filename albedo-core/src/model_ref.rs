//! What names a model: a folder, a name at a server, or a pinned reference into
//! a hub.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Fault, Result};

const READ: &str = "read a model's reference";

/// The longest served name, in bytes. Source: albedo; providers' names have tens.
const MAX_NAME: usize = 512;

/// What names a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ModelRef {
    /// A folder with `config.json`, `*.safetensors`, `tokenizer.json` and
    /// `tokenizer_config.json`.
    Folder(PathBuf),
    /// The name under which a server offers the model.
    Served(String),
    /// A repository of a hub, pinned to one revision.
    Hub(HubRef),
}

impl ModelRef {
    /// The model that a server offers under `name`.
    pub fn served(name: impl Into<String>) -> Self {
        Self::Served(name.into())
    }

    /// The one reference that settings give, each beside the key that it was
    /// given with.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`]: no key is given, more than one is, or a
    /// served name is empty, longer than 512 bytes or has control characters.
    pub fn one_of<const N: usize>(keys: [(&str, Option<Self>); N]) -> Result<Self> {
        let invalid = |message: String| Error::new(ErrorKind::ConfigInvalid, READ, message);
        let all = keys.iter().map(|(key, _)| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        let mut given = keys.into_iter().filter_map(|(key, model)| Some((key, model?)));
        let Some((key, model)) = given.next() else {
            return Err(invalid("nothing names the model".into()).with_hint(format!("set one of {all}")));
        };
        if let Some((other, _)) = given.next() {
            return Err(invalid(format!("`{key}` and `{other}` both name the model")).with_hint("keep one"));
        }
        match &model {
            Self::Served(name) if name.is_empty() || name.len() > MAX_NAME => {
                Err(invalid(format!("the name has {} bytes, it must be 1 to {MAX_NAME}", name.len()))
                    .with("key", key))
            }
            Self::Served(name) if name.chars().any(char::is_control) => {
                Err(invalid("the name holds a control character".into()).with("key", key))
            }
            Self::Folder(path) if path.as_os_str().is_empty() => {
                Err(invalid("the path is empty".into()).with("key", key))
            }
            _ => Ok(model),
        }
    }

    /// The same model, a relative folder taken from `base`.
    #[must_use]
    pub fn relative_to(&self, base: &Path) -> Self {
        match self {
            Self::Folder(folder) => Self::Folder(base.join(folder)),
            other => other.clone(),
        }
    }

    /// The folder, for a backend that loads nothing else.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], the operator's, for any other reference.
    pub fn require_folder(&self, operation: &str) -> Result<&Path> {
        match self {
            Self::Folder(folder) => Ok(folder),
            other => Err(other.refused(operation, "this backend loads folders", "`path`")),
        }
    }

    /// Whether the model has files: it is in a folder, or in a hub, which gives a folder.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], the operator's, for a served name.
    pub fn require_files(&self, operation: &str) -> Result<()> {
        match self {
            Self::Served(_) => Err(self.refused(operation, "this backend loads folders", "`path`")),
            Self::Folder(_) | Self::Hub(_) => Ok(()),
        }
    }

    /// The served name, for a backend that asks a server.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], the operator's, for any other reference.
    pub fn require_served(&self, operation: &str) -> Result<&str> {
        match self {
            Self::Served(name) => Ok(name),
            other => Err(other.refused(operation, "this backend asks a server, which knows names", "`name`")),
        }
    }

    fn refused(&self, operation: &str, reason: &str, key: &str) -> Error {
        let kind = match self {
            Self::Folder(_) => "a folder",
            Self::Served(_) => "a served name",
            Self::Hub(_) => "a hub's reference",
        };
        Error::new(ErrorKind::ConfigInvalid, operation, format!("the model is given by {kind}, but {reason}"))
            .with_fault(Fault::Operator)
            .with("model", self)
            .with_hint(format!("name the model with {key}, or choose another backend"))
    }
}

impl From<PathBuf> for ModelRef {
    fn from(folder: PathBuf) -> Self {
        Self::Folder(folder)
    }
}

impl From<&Path> for ModelRef {
    fn from(folder: &Path) -> Self {
        Self::Folder(folder.to_owned())
    }
}

impl From<&PathBuf> for ModelRef {
    fn from(folder: &PathBuf) -> Self {
        Self::Folder(folder.clone())
    }
}

impl From<HubRef> for ModelRef {
    fn from(reference: HubRef) -> Self {
        Self::Hub(reference)
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Served(name) => f.write_str(name),
            Self::Hub(reference) => reference.fmt(f),
        }
    }
}

/// A repository of a hub, pinned to one revision, so that it can only ever mean
/// the same bytes.
///
/// | hub | text |
/// | --- | --- |
/// | `oci`, a container registry | `owner/model@sha256:` and the manifest's 64 digits; a registry's host may come first (`ghcr.io/owner/model`), one with a port only after `oci:` |
/// | `hf`, Hugging Face | `hf:owner/model@` and the commit's 40 digits |
/// | any other | `hub:repository@` and either |
///
/// Every reference has one spelling: digits and hosts are lower case, and tags,
/// branches and shortened commits are refused, since they can be moved.
///
/// ```
/// use albedo_core::HubRef;
///
/// # fn main() -> albedo_core::Result<()> {
/// let text = "hf:Qwen/Qwen3-4B@1cfa9a7208912126459214e8b04321603b3df60c";
/// let reference: HubRef = text.parse()?;
/// assert_eq!((reference.hub(), reference.repository()), ("hf", "Qwen/Qwen3-4B"));
/// assert_eq!(reference.to_string(), text);
///
/// let error = "hf:Qwen/Qwen3-4B@main".parse::<HubRef>().expect_err("a branch moves");
/// assert!(error.to_string().contains("can be moved"), "{error}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HubRef {
    hub: String,
    repository: String,
    revision: Revision,
}

/// What a [`HubRef`] is pinned to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Revision {
    /// SHA-256 of a manifest, which names the digest of every file.
    Sha256(Digest),
    /// A Git commit: its SHA-1.
    Commit([u8; 20]),
}

impl HubRef {
    /// The hub of container registries.
    pub const OCI: &'static str = "oci";
    /// The hub Hugging Face.
    pub const HUGGING_FACE: &'static str = "hf";

    /// The longest text of a reference, in bytes.
    pub const MAX_TEXT: usize = 384;

    /// `repository` of `hub` at `revision`.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`]: names that no such hub has, or a revision
    /// of another kind than the hub's.
    pub fn new(hub: impl Into<String>, repository: impl Into<String>, revision: Revision) -> Result<Self> {
        let reference = Self { hub: hub.into(), repository: repository.into(), revision };
        reference.check().map_err(|mistake| mistake.error(&reference.to_string()))?;
        Ok(reference)
    }

    /// Name of the hub: the plugin that resolves the reference.
    pub fn hub(&self) -> &str {
        &self.hub
    }

    /// The repository, as the hub calls it.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// What it is pinned to.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// `Ok` if the reference is one of `hub`, for a hub that resolves no other.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], the operator's.
    pub fn require_hub(&self, hub: &str, operation: &str) -> Result<()> {
        if self.hub == hub {
            return Ok(());
        }
        let message = format!("the reference is one of hub `{}`, this is `{hub}`", self.hub);
        Err(Error::new(ErrorKind::ConfigInvalid, operation, message)
            .with_fault(Fault::Operator)
            .with("reference", self))
    }

    fn check(&self) -> Result<(), Mistake> {
        let Self { hub, repository, revision } = self;
        let letters = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-');
        if !hub.starts_with(|c: char| c.is_ascii_lowercase()) || !hub.chars().all(letters) || hub.len() > 32 {
            return Err(Mistake(
                format!("`{}` is no hub's name", shown(hub)),
                "write `oci:` before a registry with a port, `hf:` before a repository of Hugging Face",
            ));
        }
        if repository.len() > 255 {
            return Err(Mistake("the repository's name has more than 255 bytes".into(), NAMES));
        }
        let parts: Vec<_> = repository.split('/').collect();
        let known = [Self::OCI, Self::HUGGING_FACE].contains(&hub.as_str());
        let port = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !known && parts.first().is_some_and(|first| port(first)) {
            return Err(Mistake(
                format!("`{hub}:{}` begins as a registry with a port does", shown(parts[0])),
                "write `oci:` before a registry with a port",
            ));
        }
        let (host, names) = match &parts[..] {
            [host, names @ ..] if hub == Self::OCI && !names.is_empty() => (Some(*host), names),
            names => (None, names),
        };
        if let Some((name, port)) = host.and_then(|host| host.split_once(':')) {
            let valid = port.bytes().all(|byte| byte.is_ascii_digit())
                && !port.starts_with('0')
                && port.parse().is_ok_and(|port: u16| port > 0);
            if !valid {
                return Err(Mistake(format!("`{}` is no port", shown(port)), NAMES));
            }
            part(name)?;
        } else if let Some(host) = host {
            part(host)?;
        }
        names.iter().try_for_each(|name| part(name))?;
        match (hub.as_str(), revision) {
            (Self::OCI, Revision::Sha256(_)) if repository.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                Err(Mistake(
                    "a container registry's names have no upper-case letters".into(),
                    "write it in lower case, or `hf:` before a repository of Hugging Face",
                ))
            }
            (Self::OCI, Revision::Commit(_)) => Err(Mistake(
                "a container registry's revision is no Git commit".into(),
                "pin the manifest: `@sha256:` and 64 digits; or write `hf:` before a repository of Hugging Face",
            )),
            (Self::HUGGING_FACE, Revision::Sha256(_)) => Err(Mistake(
                "a revision of Hugging Face is no sha256 digest".into(),
                "pin the commit: its 40 hexadecimal digits",
            )),
            (Self::HUGGING_FACE, Revision::Commit(_)) if parts.len() != 2 => Err(Mistake(
                "a repository of Hugging Face is named by its owner and its name".into(),
                "write hf:owner/model@commit",
            )),
            _ => Ok(()),
        }
    }
}

const NAMES: &str =
    "a repository's name has ASCII letters, digits, `.`, `_` and `-`, with `/` between its parts";

/// One part of a repository's name, or a host.
fn part(name: &str) -> Result<(), Mistake> {
    if let Some(c) = name.chars().find(|&c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' | '-'))
    {
        let hint = match c {
            ':' => "leave the tag out, and pin the manifest's digest with `@sha256:`",
            _ => NAMES,
        };
        return Err(Mistake(format!("`{}` cannot be in a repository's name", c.escape_default()), hint));
    }
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    if !edge(name.chars().next()) || !edge(name.chars().next_back()) || name.contains("..") {
        return Err(Mistake(format!("`{name}` is no part of a repository's name"), NAMES));
    }
    Ok(())
}

impl FromStr for HubRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).map_err(|mistake| mistake.error(text))
    }
}

fn parse(text: &str) -> Result<HubRef, Mistake> {
    const PIN: &str = "pin it: `@sha256:` and the 64 digits of the manifest, or, for Hugging Face, `@` and the \
                       40 digits of the commit";
    if text.len() > HubRef::MAX_TEXT {
        return Err(Mistake(format!("it has more than {} bytes", HubRef::MAX_TEXT), NAMES));
    }
    let Some((head, revision)) = text.split_once('@') else {
        return Err(Mistake("it names no revision".into(), PIN));
    };
    let (digits, sha256) = match revision.strip_prefix("sha256:") {
        Some(digits) => (digits, true),
        None => (revision, false),
    };
    let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let revision = match (digits.len(), sha256) {
        (64, true) | (40, false) if hexadecimal && digits.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            return Err(Mistake(
                "its revision has upper-case digits".into(),
                "write them in lower case: one revision, one spelling",
            ));
        }
        (64, true) if hexadecimal => Revision::Sha256(sha256_of(digits)?),
        (40, false) if hexadecimal => Revision::Commit(bytes(digits)),
        _ => {
            let revision = shown(revision);
            return Err(Mistake(format!("`{revision}` is no revision, or one that can be moved"), PIN));
        }
    };
    let (hub, repository) = match head.split_once(':') {
        // A colon after a slash is a tag's or a port's, which is said below.
        Some((hub, repository)) if !hub.contains('/') => (hub, repository),
        _ => (HubRef::OCI, head),
    };
    let reference = HubRef { hub: hub.to_owned(), repository: repository.to_owned(), revision };
    reference.check()?;
    Ok(reference)
}

fn sha256_of(digits: &str) -> Result<Digest, Mistake> {
    digits.parse().map_err(|_| Mistake("its digest is malformed".into(), NAMES))
}

/// The bytes of as many pairs of hexadecimal digits.
fn bytes<const N: usize>(digits: &str) -> [u8; N] {
    let digit = |at: usize| digits.as_bytes().get(at).and_then(|&digit| char::from(digit).to_digit(16));
    std::array::from_fn(|at| (digit(2 * at).unwrap_or(0) << 4 | digit(2 * at + 1).unwrap_or(0)) as u8)
}

/// Why a reference is none, and what to do.
struct Mistake(String, &'static str);

impl Mistake {
    fn error(self, text: &str) -> Error {
        let Self(message, hint) = self;
        Error::new(ErrorKind::ConfigInvalid, READ, message).with("reference", shown(text)).with_hint(hint)
    }
}

/// At most 120 characters of `text`, whatever is not ASCII escaped: look-alikes
/// and what moves the cursor are seen.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(120).flat_map(char::escape_default).collect();
    if text.chars().nth(120).is_some() {
        shown.push_str("...");
    }
    shown
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => write!(f, "sha256:{digest}"),
            Self::Commit(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

impl fmt::Display for HubRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hub, repository, revision } = self;
        if hub != Self::OCI || repository.contains(':') {
            write!(f, "{hub}:")?;
        }
        write!(f, "{repository}@{revision}")
    }
}

impl TryFrom<String> for HubRef {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<HubRef> for String {
    fn from(reference: HubRef) -> Self {
        reference.to_string()
    }
}

impl JsonSchema for HubRef {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HubRef".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "a hub's repository, pinned: owner/model@sha256:<64 digits>, hf:owner/model@<40 digits>",
            "maxLength": Self::MAX_TEXT,
            "pattern": "@(sha256:[0-9a-f]{64}|[0-9a-f]{40})$",
        })
    }
}

#[cfg(test)]
mod tests;
