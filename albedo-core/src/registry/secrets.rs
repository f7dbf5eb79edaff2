//! Keys and passwords, which stand in no configuration, record or message.

use std::fmt::{self, Debug};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Fault, Result, Retry};

const READ: &str = "read a secret";

/// Most bytes of a file that holds a secret.
const MAX_BYTES: u64 = 64 << 10;

/// A text that nothing prints or serialises; its memory is cleared at the end.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The secret `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself: for the request that needs it, and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Where secrets are looked up by name.
pub trait Secrets: Debug + Send + Sync + 'static {
    /// The secret `name`.
    ///
    /// # Errors
    /// The operator's: there is none of that name, or it cannot be read. No error
    /// holds any part of a secret.
    fn get(&self, name: &str) -> Result<Secret>;
}

/// The secrets of the process. The first of these that exists has it:
///
/// 1. the environment variable `NAME`;
/// 2. the file that the environment variable `NAME_FILE` names;
/// 3. the systemd credential `NAME`: the file of that name in the folder
///    `$CREDENTIALS_DIRECTORY`.
///
/// White space around it is taken off. An empty variable counts as none.
#[derive(Debug, Clone, Default)]
pub struct SystemSecrets {
    credentials: Option<PathBuf>,
}

impl SystemSecrets {
    /// With the credentials that systemd has given the process.
    pub fn from_env() -> Self {
        Self { credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from) }
    }

    /// With the credentials in `folder`.
    pub fn with_credentials(folder: impl Into<PathBuf>) -> Self {
        Self { credentials: Some(folder.into()) }
    }
}

impl Secrets for SystemSecrets {
    fn get(&self, name: &str) -> Result<Secret> {
        // Other names would be files of other folders, or the secret itself in the
        // wrong place, which no error may repeat.
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            let message = "the name has other characters than letters, digits and `_`";
            return Err(Error::new(ErrorKind::ConfigInvalid, READ, message)
                .with_hint("give the name of an environment variable, not the secret"));
        }
        if let Some(secret) = variable(name)? {
            return Ok(secret);
        }
        if let Some(path) = std::env::var_os(format!("{name}_FILE")) {
            return file(name, Path::new(&path));
        }
        match self.credentials.as_ref().map(|folder| folder.join(name)) {
            Some(path) if path.exists() => file(name, &path),
            _ => Err(unusable(name, "it is not set")),
        }
    }
}

fn variable(name: &str) -> Result<Option<Secret>> {
    match std::env::var(name) {
        Ok(text) => Ok(trimmed(text)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        // The error of the standard library would print it.
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(unusable(name, "the environment variable is not UTF-8"))
        }
    }
}

fn file(name: &str, path: &Path) -> Result<Secret> {
    let io = |error| Error::io(READ, path, error).with_fault(Fault::Operator).with("name", name);
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(io)?;
    let wrong = |message| unusable(name, message).with("path", path.display());
    if bytes.len() as u64 > MAX_BYTES {
        return Err(wrong("the file is too long to be a secret"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong("the file is not UTF-8"))?;
    trimmed(text.to_owned()).ok_or_else(|| wrong("the file is empty"))
}

fn trimmed(text: String) -> Option<Secret> {
    let text = Zeroizing::new(text);
    (!text.trim().is_empty()).then(|| Secret::new(text.trim()))
}

fn unusable(name: &str, message: &str) -> Error {
    Error::new(ErrorKind::Unavailable, READ, message)
        .with_fault(Fault::Operator)
        .with_retry(Retry::Never)
        .with("name", name)
        .with_hint(format!(
            "set the environment variable `{name}`, or `{name}_FILE` to a file that holds it, or give the \
             service a credential of that name"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_found_by_its_name_and_never_printed() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ALBEDO_TEST_CREDENTIAL"), " hush-hush\n").expect("writes");
        std::fs::write(folder.path().join("ALBEDO_TEST_BINARY"), b"hush\xff").expect("writes");
        std::fs::write(folder.path().join("ALBEDO_TEST_EMPTY"), "\n").expect("writes");
        let secrets = SystemSecrets::with_credentials(folder.path());
        let secret = secrets.get("ALBEDO_TEST_CREDENTIAL").expect("is there");
        assert_eq!(secret.expose(), "hush-hush");
        assert!(!format!("{secret:?} {secrets:?}").contains("hush-hush"));
        for (name, words) in [
            ("ALBEDO_TEST_BINARY", "is not UTF-8"),
            ("ALBEDO_TEST_EMPTY", "is empty"),
            ("ALBEDO_TEST_NONE", "it is not set"),
            ("../ALBEDO_TEST_CREDENTIAL", "other characters"),
            ("sk-hush-hush", "other characters"),
            ("", "other characters"),
        ] {
            let error = secrets.get(name).expect_err(words);
            assert_eq!((error.fault(), error.retry()), (Fault::Operator, Retry::Never));
            assert!(error.to_string().contains(words), "{error}");
            assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
        }
    }

    #[test]
    fn an_environment_variable_comes_before_a_credential() {
        // Every process has it, and no test can set one safely.
        let path = std::env::var("PATH").expect("is set");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("PATH"), "another").expect("writes");
        let secret = SystemSecrets::with_credentials(folder.path()).get("PATH").expect("is there");
        assert_eq!(secret.expose(), path.trim());
    }
}
