//! What a program is: its file, its arguments, and the bytes that make its
//! identity.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use albedo_core::registry::Secret;
use albedo_core::{BuildContext, CallContext, Digest, Error, ErrorKind, Fault, Reach, Result};

const FIND: &str = "find the program of `process`";
const READ: &str = "read the files of `process`";

/// A program that can be started, as often as it takes.
#[derive(Debug)]
pub(super) struct Program {
    /// As it stands in the settings.
    pub(super) name: String,
    path: PathBuf,
    arguments: Vec<String>,
    folder: PathBuf,
    env: Vec<(String, Secret)>,
    files: Vec<(String, PathBuf)>,
    pub(super) bytes: Bytes,
}

/// Digests of what the program is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bytes {
    /// Of the program's own file.
    pub(super) program: Digest,
    /// Of the named files, by their names in the settings.
    pub(super) files: BTreeMap<String, Digest>,
}

impl Program {
    /// The program of `command` with its files and variables, found and read.
    ///
    /// # Errors
    /// The operator's: a file or a variable is not there.
    pub(super) async fn find(
        command: &[String],
        files: &[PathBuf],
        env: &BTreeSet<String>,
        cx: &BuildContext<'_>,
    ) -> Result<Self> {
        let folder = std::path::absolute(cx.path("."))
            .map_err(|error| Error::io(FIND, Path::new("."), error).with_fault(Fault::Operator))?;
        let (name, arguments) =
            command.split_first().ok_or_else(|| Error::bug(FIND, "the command was not checked"))?;
        let path = find(name, &folder, std::env::var_os("PATH").as_deref())?;
        let listed = files.iter().map(|file| file.display().to_string());
        // A script among the arguments is part of the program, listed or not.
        let given = arguments.iter().filter(|argument| folder.join(argument).is_file()).cloned();
        let files: BTreeMap<_, _> =
            listed.chain(given).map(|name| (name.clone(), folder.join(name))).collect();
        let files: Vec<_> = files.into_iter().collect();
        let env = env.iter().map(|name| {
            let value = cx.secret(name).map_err(|error| error.under("env"))?;
            Ok((name.clone(), value))
        });
        let env = env.collect::<Result<_>>()?;
        let bytes = digests(&path, &files, cx.call()).await?;
        Ok(Self { name: name.clone(), path, arguments: arguments.to_vec(), folder, env, files, bytes })
    }

    /// The arguments, as they stand in the settings.
    pub(super) fn arguments(&self) -> &[String] {
        &self.arguments
    }

    /// Checks that every file still has the bytes that made the identity.
    ///
    /// # Errors
    /// The operator's: one is gone or has other bytes.
    pub(super) async fn check_unchanged(&self, cx: &CallContext) -> Result<()> {
        let now = digests(&self.path, &self.files, cx).await?;
        let mut before = self.bytes.files.iter();
        let changed = if now.program == self.bytes.program {
            before.find(|(name, digest)| now.files.get(*name) != Some(*digest)).map(|(name, _)| name)
        } else {
            Some(&self.name)
        };
        match changed {
            None => Ok(()),
            Some(name) => Err(Error::new(
                ErrorKind::DigestMismatch,
                "start the program of `process` again",
                "a file of the program has other bytes than when it was built",
            )
            .with_fault(Fault::Operator)
            .with_reach(Reach::Duel)
            .with("file", name)
            .with_hint("put its bytes back, or begin anew: another program is another judge or screen")),
        }
    }

    /// The command that starts it, in a process group of its own, with no environment
    /// but the listed variables.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .current_dir(&self.folder)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value.expose())))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        command
    }
}

/// The file of program `name`: a path is taken from `folder`, a bare name is looked for
/// in the folders of `search`.
fn find(name: &str, folder: &Path, search: Option<&OsStr>) -> Result<PathBuf> {
    let is_path = Path::new(name).components().count() > 1;
    if is_path {
        let path = folder.join(name);
        return match std::fs::metadata(&path) {
            Ok(file) if file.is_file() => Ok(path),
            Ok(_) => Err(missing("it is no file").with("path", path.display())),
            Err(error) => {
                Err(Error::io(FIND, &path, error).with_fault(Fault::Operator).with("key", "command"))
            }
        };
    }
    let places = search.into_iter().flat_map(std::env::split_paths).map(|place| place.join(name));
    // A relative folder of PATH is taken from albedo's own.
    let mut places = places.filter_map(|path| std::path::absolute(path).ok());
    places.find(|path| path.is_file()).ok_or_else(|| {
        missing("no folder of PATH has such a program")
            .with("program", name)
            .with_hint("install it, or give the path of its file, `./NAME` for one beside the configuration")
    })
}

fn missing(message: &str) -> Error {
    Error::new(ErrorKind::NotFound, FIND, message).with("key", "command")
}

/// The digests of the program at `path` and of its `files`.
async fn digests(path: &Path, files: &[(String, PathBuf)], cx: &CallContext) -> Result<Bytes> {
    let (path, files) = (path.to_owned(), files.to_vec());
    let read = move || -> Result<Bytes> {
        let program = digest(&path)?;
        let files = files.into_iter().map(|(name, path)| Ok((name, digest(&path)?)));
        Ok(Bytes { program, files: files.collect::<Result<_>>()? })
    };
    let read = cx.run(READ, tokio::task::spawn_blocking(read)).await?;
    read.map_err(|error| Error::bug(READ, error.to_string()).with_source(error))?
}

fn digest(path: &Path) -> Result<Digest> {
    let read = || -> std::io::Result<Digest> {
        let file = std::fs::File::open(path)?;
        // A device or a pipe may have no end.
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("it is no regular file"));
        }
        Digest::of_reader(file)
    };
    read().map_err(|error| Error::io(READ, path, error).with_fault(Fault::Operator).with_reach(Reach::Duel))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_searched_and_a_path_is_taken_from_the_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let [here, there] = ["here", "there"].map(|name| folder.path().join(name));
        for place in [&here, &there] {
            std::fs::create_dir(place).expect("makes");
        }
        std::fs::write(here.join("judge"), "a").expect("writes");
        std::fs::write(there.join("tool"), "b").expect("writes");
        let search = std::env::join_paths([folder.path(), &there]).expect("a PATH");
        let found = |name| find(name, &here, Some(&search));
        assert_eq!(found("tool").expect("found"), there.join("tool"));
        assert_eq!(found("./judge").expect("found"), here.join("./judge"));
        // What lies beside the configuration is no command by its bare name.
        for (name, why) in
            [("judge", "no folder of PATH"), ("./tool", "check the path"), ("../here", "no file")]
        {
            let error = found(name).expect_err(name);
            assert!(error.to_string().contains(why) && error.to_string().contains("key: command"), "{error}");
            assert_eq!(error.fault(), Fault::Operator);
        }
    }
}
