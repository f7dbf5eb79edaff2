//! The key that says which journals are this user's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;

use crate::durable::synced;
use crate::record::JournalKey;
use crate::{Digest, Error, ErrorKind, Fault, Result};

const OPERATION: &str = "find the key of this user's journals";
const FILE: &str = "journal.key";

/// The key of this user's journals, in `albedo/journal.key` of the folder for a user's
/// state (`$XDG_STATE_HOME`, else `~/.local/state`). It is made at its first use: 32
/// random bytes that nobody else may read.
///
/// # Errors
/// The operator's: there is no such folder, it cannot be written, or others can read
/// the key.
pub fn journal_key() -> Result<JournalKey> {
    let strategy = etcetera::choose_base_strategy().map_err(|error| {
        Error::new(ErrorKind::NotFound, OPERATION, error.to_string())
            .with_fault(Fault::Operator)
            .with_hint("set HOME or XDG_STATE_HOME")
            .with_source(error)
    })?;
    let folder = strategy.state_dir().unwrap_or_else(|| strategy.data_dir());
    key_in(&folder.join("albedo"))
}

fn key_in(folder: &Path) -> Result<JournalKey> {
    let path = folder.join(FILE);
    match read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            create(folder, &path).map_err(|error| {
                Error::io(OPERATION, folder, error)
                    .with_fault(Fault::Operator)
                    .with_hint("set XDG_STATE_HOME to a folder that can be written")
            })?;
            read(&path)
        }
        read => read,
    }
}

fn read(path: &Path) -> Result<JournalKey> {
    let io = |error| Error::io(OPERATION, path, error);
    let invalid = |message: &str| {
        Error::new(ErrorKind::ConfigInvalid, OPERATION, message)
            .with_fault(Fault::Operator)
            .with("path", path.display())
    };
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    #[cfg(unix)]
    if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0 {
        return Err(invalid("others can read or write it").with_hint("run `chmod 600` on it"));
    }
    let mut digits = String::new();
    let read = file.take(metadata.len().min(1024)).read_to_string(&mut digits);
    let key = read.ok().and_then(|_| digits.trim_end().parse::<Digest>().ok());
    let key = key.ok_or_else(|| {
        invalid("it is not 64 hexadecimal digits").with_hint("restore it; without it journals are refused")
    })?;
    Ok(JournalKey::new(*key.as_bytes()))
}

/// Makes the key at `path` unless another process has by now.
fn create(folder: &Path, path: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    let temporary: PathBuf = folder.join(format!("{FILE}.{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    let written = writeln!(file, "{}", Digest::from(bytes)).and_then(|()| synced(file.sync_all()));
    // A link never replaces a key that is there.
    let linked = written.and_then(|()| match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    fs::remove_file(&temporary)?;
    linked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_is_the_users_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = folder.path().join("state");
        let tag = || key_in(&state).expect("a key").tag(b"x");
        let first = tag();
        assert_eq!(first, tag());
        assert_ne!(first, key_in(folder.path()).expect("a key").tag(b"x"), "another folder, another key");
        let files: Vec<_> =
            fs::read_dir(&state).expect("lists").map(|entry| entry.expect("lists").file_name()).collect();
        assert_eq!(files, [FILE]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let path = state.join(FILE);
            let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("sets");
            assert_eq!(fs::metadata(&path).expect("is there").permissions().mode() & 0o777, 0o600);
            mode(0o640);
            assert!(key_in(&state).expect_err("readable").to_string().contains("chmod 600"));
            mode(0o600);
        }
        fs::write(state.join(FILE), "no key").expect("writes");
        assert!(key_in(&state).expect_err("damaged").to_string().contains("64 hexadecimal digits"));
    }
}
