//! Conversations in JSON Lines, as people and other tools write them down.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::{Error, ErrorKind, Fault, Message, MessageRole, Result, TaskRow};

const READ: &str = "read the conversations";

/// The longest line that is read, in bytes, as of `albedo generate`.
const MAX_LINE: u64 = 64 << 20;

/// The conversations in `path`, a file of JSON Lines or a folder of such files: one per
/// line, an array of messages with `role` and `content`, or an object with `messages` and
/// perhaps `instance_id` and `repo`. The feature `distil` reads files that end in `.gz`,
/// too; without it they are refused.
///
/// # Errors
/// The operator's, with file and line: what is no conversation; none at all.
pub(crate) fn conversations(path: &Path) -> Result<Vec<TaskRow>> {
    Ok(written(path)?.into_iter().map(Written::row).collect())
}

/// The same as the lines say them.
///
/// # Errors
/// As [`conversations`].
pub(crate) fn written(path: &Path) -> Result<Vec<Written>> {
    let rows = files(path)?.iter().flat_map(|path| Lines::open(path)).collect::<Result<Vec<_>>>()?;
    if rows.is_empty() {
        return Err(invalid("there is no conversation in it")
            .with("path", path.display())
            .with_hint("give one conversation per line"));
    }
    Ok(rows)
}

/// A conversation as its line says it.
pub(crate) struct Written {
    /// The task's id, if the line has it.
    pub(crate) instance_id: Option<String>,
    /// The repository, if the line has it.
    pub(crate) repo: Option<String>,
    messages: Vec<Message>,
    /// The file's name without its ending, and the number of the line.
    place: (String, u64),
}

impl Written {
    /// The row. What the line does not say follows from the file's name and the line's number: two
    /// files of one name have rows of one id.
    pub(crate) fn row(self) -> TaskRow {
        let Self { instance_id, repo, messages, place: (stem, line) } = self;
        TaskRow {
            instance_id: instance_id.unwrap_or_else(|| format!("{stem}-{line}")),
            repo: repo.unwrap_or(stem),
            messages,
        }
    }
}

/// Assistant's turns with something before them: a duel asks for another in place of one.
pub(crate) fn turns(messages: &[Message]) -> usize {
    messages.iter().skip(1).filter(|message| message.role == MessageRole::Assistant).count()
}

/// The file `path`, or the `.jsonl` and `.jsonl.gz` files of the folder, in the order of their names. A
/// file that is there packed and unpacked is refused: nobody knows whether both say the same.
fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let io = |error| Error::io(READ, path, error);
    let mut files = Vec::new();
    if fs::metadata(path).map_err(io)?.is_dir() {
        let is_lines = |path: &Path| ends_in(path, "jsonl");
        for entry in fs::read_dir(path).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let unpacked = path.with_extension("");
            let is_packed = ends_in(&path, "gz") && is_lines(&unpacked);
            if is_packed && unpacked.exists() {
                return Err(invalid("two files have one name, packed and unpacked")
                    .with("file", unpacked.display())
                    .with("packed", path.display())
                    .with_hint("remove one of them, or rename it if it has other conversations"));
            }
            if is_packed || is_lines(&path) {
                files.push(path);
            }
        }
        files.sort_unstable();
    } else {
        files.push(path.to_owned());
    }
    if files.is_empty() {
        return Err(invalid("no file in the folder ends in `.jsonl`")
            .with("path", path.display())
            .with_hint("give a file, or a folder of files, with one conversation per line"));
    }
    match files.iter().find(|path| ends_in(path, "gz")) {
        Some(packed) if !cfg!(feature = "distil") => Err(invalid("this build reads no packed files")
            .with("file", packed.display())
            .with_hint("unpack it with `gzip -d`, or build albedo with its feature `distil`")),
        _ => Ok(files),
    }
}

fn ends_in(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|extension| extension == ending)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::DataInvalid, READ, message).with_fault(Fault::Operator)
}

/// What reads `file`, which is at `path`.
fn reader(path: &Path, file: File) -> Box<dyn BufRead> {
    #[cfg(feature = "distil")]
    if ends_in(path, "gz") {
        return Box::new(BufReader::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))));
    }
    let _ = path;
    Box::new(BufReader::new(file))
}

/// The rows in one file.
struct Lines {
    path: PathBuf,
    reader: Box<dyn BufRead>,
    line: u64,
}

impl Lines {
    /// Opens the file; one that cannot be opened gives its error as its only row.
    fn open(path: &Path) -> Box<dyn Iterator<Item = Result<Written>>> {
        match File::open(path) {
            Ok(file) => Box::new(Self { path: path.to_owned(), reader: reader(path, file), line: 0 }),
            Err(error) => Box::new(std::iter::once(Err(Error::io(READ, path, error)))),
        }
    }

    /// The next line that is not blank; none at the end.
    fn text(&mut self) -> Result<Option<String>> {
        loop {
            self.line += 1;
            let mut text = String::new();
            let read = (&mut self.reader).take(MAX_LINE + 1).read_line(&mut text);
            let read = read.map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => invalid("the line is not UTF-8"),
                _ => Error::io(READ, &self.path, error),
            })?;
            if read as u64 > MAX_LINE {
                return Err(invalid(format!("the line has more than {MAX_LINE} bytes")));
            }
            if read == 0 {
                return Ok(None);
            }
            if !text.trim().is_empty() {
                return Ok(Some(text));
            }
        }
    }

    fn row(&mut self) -> Result<Option<Written>> {
        let Some(text) = self.text()? else { return Ok(None) };
        let stem = self.path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        Conversation::read(&text)?.at((stem, self.line)).map(Some)
    }
}

impl Iterator for Lines {
    type Item = Result<Written>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.row().transpose()?;
        Some(row.map_err(|error| error.with("file", self.path.display()).with("line", self.line)))
    }
}

/// A line as it is written; other keys are somebody else's.
#[derive(Deserialize)]
struct Conversation {
    instance_id: Option<String>,
    repo: Option<String>,
    messages: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    role: String,
    content: Value,
}

impl Conversation {
    fn read(text: &str) -> Result<Self> {
        let malformed = |error: serde_json::Error| {
            invalid(error.to_string()).with_hint(
                "a line is an array of messages with `role` and `content`, or an object with `messages`",
            )
        };
        if text.trim_start().starts_with('[') {
            let messages = serde_json::from_str(text).map_err(malformed)?;
            return Ok(Self { instance_id: None, repo: None, messages });
        }
        serde_json::from_str(text).map_err(malformed)
    }

    /// The conversation at its place: its file and its line.
    fn at(self, place: (String, u64)) -> Result<Written> {
        let messages = self.messages.into_iter().enumerate();
        let messages: Vec<_> = messages
            .map(|(place, said)| said.message().map_err(|error| error.with("message", place)))
            .collect::<Result<_>>()?;
        if turns(&messages) == 0 {
            return Err(invalid(
                "no message of the assistant has one before it: there is nothing to ask for",
            )
            .with_hint("a duel asks both models for the assistant's message in place of the recorded one"));
        }
        let Self { instance_id, repo, .. } = self;
        if [&instance_id, &repo].into_iter().flatten().any(String::is_empty) {
            return Err(invalid("`instance_id` or `repo` is empty"));
        }
        Ok(Written { instance_id, repo, messages, place })
    }
}

impl Said {
    fn message(self) -> Result<Message> {
        use MessageRole::{Assistant, System, Tool, User};
        let role = [System, User, Assistant, Tool].into_iter().find(|role| role.as_str() == self.role);
        let role = role.ok_or_else(|| {
            invalid(format!("unknown role `{}`", self.role.chars().take(32).collect::<String>()))
                .with_hint("roles are `system`, `user`, `assistant` and `tool`")
        })?;
        match self.content {
            Value::String(content) => Ok(Message::new(role, content)),
            _ => Err(invalid("`content` is no text").with_hint(
                "write what the message says as one text; a tool call, too, as the model writes it",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Result<TaskRow>> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("chats.jsonl");
        fs::write(&path, text).expect("writes");
        Lines::open(&path).map(|line| line.map(Written::row)).collect()
    }

    const TURNS: &str = r#"[{"role":"user","content":"Hi"},{"role":"assistant","content":"Ho"}]"#;

    #[test]
    fn a_line_is_a_conversation_and_blank_lines_are_none() {
        let named = format!(r#"{{"instance_id":"a","repo":"r","messages":{TURNS},"score":3}}"#);
        let rows = lines(&format!("{TURNS}\n\n{named}\n"));
        let rows: Vec<_> = rows.into_iter().map(|row| row.expect("reads")).collect();
        let names: Vec<_> = rows.iter().map(|row| (row.instance_id.as_str(), row.repo.as_str())).collect();
        assert_eq!(names, [("chats-1", "chats"), ("a", "r")]);
        assert_eq!(rows[0].messages, rows[1].messages);
    }

    /// A folder with the lines of `files`, packed where their names end in `.gz`.
    #[cfg(feature = "distil")]
    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        use std::io::Write;

        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            let file = File::create(&path).expect("creates");
            let mut file: Box<dyn Write> = if ends_in(&path, "gz") {
                Box::new(flate2::write::GzEncoder::new(file, flate2::Compression::default()))
            } else {
                Box::new(file)
            };
            file.write_all(text.as_bytes()).expect("writes");
        }
        folder
    }

    #[cfg(feature = "distil")]
    #[test]
    fn a_folder_has_its_packed_files_too() {
        let line = format!("{TURNS}\n");
        let line = line.as_str();
        let read = |files: &[(&str, &str)]| {
            let folder = folder(files);
            let rows = conversations(folder.path()).expect("reads").into_iter();
            rows.map(|row| row.instance_id).collect::<Vec<_>>()
        };
        let files = [("b.jsonl", line), ("a.jsonl.gz", line), ("notes.gz", "-"), ("notes.txt", "-")];
        assert_eq!(read(&files), ["a.jsonl-1", "b-1"]);
        assert_eq!(read(&files[1..]), ["a.jsonl-1"]);
    }

    #[test]
    fn a_file_that_is_there_packed_and_unpacked_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["a.jsonl", "a.jsonl.gz"] {
            fs::write(folder.path().join(name), TURNS).expect("writes");
        }
        let error = conversations(folder.path()).expect_err("which one?").to_string();
        assert!(error.contains("/a.jsonl,") && error.contains("/a.jsonl.gz"), "{error}");
        assert!(error.contains("remove one of them"), "{error}");
        fs::remove_file(folder.path().join("a.jsonl.gz")).expect("removes");
        assert_eq!(conversations(folder.path()).expect("reads").len(), 1);
    }

    #[cfg(not(feature = "distil"))]
    #[test]
    fn a_packed_file_is_refused_by_a_build_that_cannot_read_it() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("b.jsonl"), TURNS).expect("writes");
        let packed = folder.path().join("a.jsonl.gz");
        fs::write(&packed, "packed").expect("writes");
        for path in [folder.path(), &packed] {
            let error = conversations(path).expect_err("cannot be read").to_string();
            assert!(error.contains("a.jsonl.gz") && error.contains("feature `distil`"), "{error}");
        }
    }

    #[test]
    fn a_mistake_has_its_line() {
        for (line, words) in [
            ("{", "EOF while parsing"),
            (r#"{"mesages":[]}"#, "missing field `messages`"),
            (r#"[{"role":"human","content":"Hi"}]"#, "unknown role `human`"),
            (r#"[{"role":"user","content":null}]"#, "`content` is no text"),
            (r#"[{"role":"assistant","content":"Hi"}]"#, "there is nothing to ask for"),
            ("[]", "there is nothing to ask for"),
        ] {
            let rows = lines(&format!("{TURNS}\n{line}\n"));
            let error = rows.into_iter().find_map(Result::err).expect(line);
            let text = error.to_string();
            assert!(text.contains(words) && text.contains("chats.jsonl, line: 2"), "{text}");
            assert_eq!((error.kind(), error.fault()), (ErrorKind::DataInvalid, Fault::Operator));
        }
    }
}
