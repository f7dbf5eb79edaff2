//! Reading a configuration file of any type.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::registry::mistake;
use crate::{Error, ErrorKind, Result};

pub(super) const READ: &str = "read the configuration";

/// The largest configuration file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the TOML file at `path`.
///
/// # Errors
/// The operator's: no such file, one that is too large or not UTF-8; as [`parse`].
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = String::from_utf8(bytes(path)?).map_err(|_| {
        let message = "the file is not UTF-8";
        Error::new(ErrorKind::ConfigInvalid, READ, message).with("path", path.display())
    })?;
    parse(&text).map_err(|error| error.with("path", path.display()))
}

/// The bytes of the configuration file at `path`.
pub(super) fn bytes(path: &Path) -> Result<Vec<u8>> {
    let io = |error| Error::io(READ, path, error);
    let mut bytes = Vec::new();
    if path.is_dir() {
        return Err(Error::new(ErrorKind::ConfigInvalid, READ, "it is a folder")
            .with("path", path.display())
            .with_hint("name the file in it, for example `duel.toml`"));
    }
    File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(io)?;
    if bytes.len() as u64 > MAX_BYTES {
        let message = format!("the file has more than {MAX_BYTES} bytes");
        return Err(Error::new(ErrorKind::ConfigInvalid, READ, message)
            .with("path", path.display())
            .with_hint("name a configuration file"));
    }
    Ok(bytes)
}

/// Reads the TOML in `text`.
///
/// # Errors
/// [`ErrorKind::ConfigInvalid`] with the line of a syntax error, or the path of a
/// key that is unknown, missing or of the wrong type; for an unknown key the
/// nearest known one.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    let invalid = |path: &str, error: &toml::de::Error| {
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        let line = error.span().and_then(|span| text.get(..span.start));
        let error = match mistake(READ, path, &message) {
            error if message == "duplicate key" => error
                .with_hint("it stands twice; of a list, write each table as `[[name]]`, with two brackets"),
            error => error,
        };
        match line {
            Some(before) => error.with("line", before.matches('\n').count() + 1),
            None => error,
        }
    };
    let deserializer = toml::Deserializer::parse(text).map_err(|error| invalid(".", &error))?;
    serde_path_to_error::deserialize(deserializer)
        .map_err(|error| invalid(&error.path().to_string(), error.inner()))
}

/// The folder of the file at `path`, from which its relative paths are taken.
pub(crate) fn folder(path: &Path) -> &Path {
    // The parent of a bare file name is empty, which is no path.
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
