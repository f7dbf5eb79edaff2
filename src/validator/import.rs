//! The files in which the Python system keeps its state, read to start where it stands.
//!
//! | file | is read for |
//! |---|---|
//! | `king.json`, `king_chain.json` | the kings, the newest first |
//! | `seen_hotkeys.json` | hotkeys that have taken part |
//! | `used_hotkeys.json` | the same, of the later system: an array of objects, or one per line |
//! | `completed_repos.json` | repositories that have taken part |
//! | `history.json` | pinned models that have had a verdict |
//! | `model_fingerprints.json` | fingerprints of models, for the screen `fingerprint-v2` |
//!
//! What is in a file and is not understood is named with its file and line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ledger::Import as Entered;
use super::ledger::ImportedKing;
use super::models::reference;
use super::{EntrySettings, ValidatorConfig};
use crate::chain::{BlockNumber, Hotkey};
use crate::judges::screens::fingerprint::Fingerprint;
use crate::judges::screens::store::{Store, Submission};
use crate::{Digest, Error, ErrorKind, Fault, ModelRef, Result};

const READ: &str = "read the Python system's state";

/// Most bytes of a file: the corpus of fingerprints has some 100 KB per model. Source: albedo.
const MOST: u64 = 4 << 30;

/// Files that belong to the state and are not entered, and why.
const LEFT_OUT: [(&str, &str); 4] = [
    ("queue.json", "what waits is read from the chain again"),
    ("counters.json", "attempts begin anew, with the error budget of the king"),
    ("reset_marker.json", "`albedo validator reset` begins another competition"),
    ("dashboard.json", "it is made from the other files"),
];

/// What was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Import {
    files: Vec<(String, Digest)>,
    /// The kings with a hotkey, the oldest first.
    kings: Vec<PythonKing>,
    /// The first king, which is nobody's, if it is among the kings.
    genesis: Option<PythonKing>,
    hotkeys: BTreeMap<Hotkey, String>,
    contents: BTreeMap<(String, String), String>,
    fingerprints: Vec<(String, Fingerprint)>,
    /// What was not understood.
    pub unread: Vec<Unread>,
    /// Files that are not entered, and why.
    pub left_out: Vec<(String, String)>,
}

/// Something that was not understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// Why.
    pub why: String,
}

/// How much was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Kings with a hotkey.
    pub kings: usize,
    /// Hotkeys that have taken part.
    pub hotkeys: usize,
    /// Repositories and pinned models that have taken part.
    pub contents: usize,
    /// Fingerprints.
    pub fingerprints: usize,
}

/// A king, as the Python system writes one.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct PythonKing {
    hotkey: String,
    model_repo: String,
    model_digest: String,
    #[serde(default)]
    block: Option<BlockNumber>,
    #[serde(default)]
    crowned_block: Option<BlockNumber>,
    /// Seconds since the Unix epoch.
    #[serde(default)]
    crowned_at: Option<f64>,
}

/// Reads the state in the folder `path`, or the one file that it is.
///
/// # Errors
/// [`ErrorKind::NotFound`]: nothing is there. [`ErrorKind::DataInvalid`]: no file of the
/// Python system's is there.
pub fn read_import(path: &Path) -> Result<Import> {
    let mut import = Import::default();
    let metadata = fs::metadata(path).map_err(|error| Error::io(READ, path, error))?;
    let files = if metadata.is_dir() { listed(path)? } else { vec![path.to_owned()] };
    for file in &files {
        import.read(file)?;
    }
    import
        .kings
        .dedup_by(|one, other| (&one.hotkey, &one.model_digest) == (&other.hotkey, &other.model_digest));
    if import.files.is_empty() {
        return Err(Error::new(ErrorKind::DataInvalid, READ, "no file of its state is there")
            .with_fault(Fault::Operator)
            .with("path", path.display())
            .with_hint(
                "name the folder with `king.json`, `seen_hotkeys.json` and the like, or one of them",
            ));
    }
    Ok(import)
}

/// The files of the folder and of `evals/state` and `state` in it, in an order that does not
/// depend on the disk. `king.json` comes after `king_chain.json`: it is the newest king.
fn listed(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for inner in ["", "state", "evals/state"] {
        let folder = folder.join(inner);
        if !folder.is_dir() {
            continue;
        }
        let io = |error| Error::io(READ, &folder, error);
        for entry in fs::read_dir(&folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.is_file() {
                files.push(path);
            }
        }
    }
    files.sort_by_key(|path| (name(path) == "king.json", path.clone()));
    Ok(files)
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The line of the first place of `needle` in `text`, from 1.
fn line_of(text: &str, needle: &str) -> usize {
    let before = text.find(needle).map_or("", |at| &text[..at]);
    before.matches('\n').count() + 1
}

/// The elements of an array, or the objects on lines, each with its line.
fn elements(text: &str) -> std::result::Result<Vec<(usize, Value)>, (usize, String)> {
    let broken = |error: &serde_json::Error, line: usize| (line + error.line().max(1) - 1, error.to_string());
    if !text.trim_start().starts_with('[') && text.trim_start().starts_with('{') {
        // One object per line.
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        return lines
            .map(|(place, line)| {
                let value = serde_json::from_str(line).map_err(|error| (place + 1, error.to_string()))?;
                Ok((place + 1, value))
            })
            .collect();
    }
    let whole: Value = serde_json::from_str(text).map_err(|error| broken(&error, 1))?;
    let Value::Array(values) = whole else { return Err((1, "it is no array".into())) };
    Ok(lines_of_elements(text).into_iter().zip(values).collect())
}

/// The lines on which the elements of the array in `text`, which is JSON, begin.
fn lines_of_elements(text: &str) -> Vec<usize> {
    let (mut lines, mut line, mut depth) = (Vec::new(), 1, 0_u32);
    let (mut in_string, mut is_escaped, mut is_due) = (false, false, false);
    for byte in text.bytes() {
        if byte == b'\n' {
            line += 1;
        }
        if in_string {
            in_string = is_escaped || byte != b'"';
            is_escaped = !is_escaped && byte == b'\\';
            continue;
        }
        if byte.is_ascii_whitespace() {
            continue;
        }
        if depth == 1 && is_due && byte != b']' {
            lines.push(line);
            is_due = false;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                is_due |= depth == 1;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => is_due = true,
            _ => {}
        }
    }
    lines
}

impl Import {
    /// How much was found.
    pub fn found(&self) -> Found {
        Found {
            kings: self.kings.len(),
            hotkeys: self.hotkeys.len(),
            contents: self.contents.len(),
            fingerprints: self.fingerprints.len(),
        }
    }

    /// Digest of what was read: names and digests of the files.
    ///
    /// # Errors
    /// A bug: it has no JSON form.
    pub fn source(&self) -> Result<Digest> {
        Digest::of_json(&self.files)
    }

    fn not_understood(&mut self, file: &str, line: usize, why: impl Into<String>) {
        self.unread.push(Unread { file: file.into(), line, why: why.into() });
    }

    fn read(&mut self, path: &Path) -> Result<()> {
        let file = name(path);
        if let Some((_, why)) = LEFT_OUT.iter().find(|(left, _)| *left == file) {
            self.left_out.push((file, (*why).into()));
            return Ok(());
        }
        let known = [
            "king.json",
            "king_chain.json",
            "seen_hotkeys.json",
            "used_hotkeys.json",
            "completed_repos.json",
            "history.json",
            "model_fingerprints.json",
        ];
        if !known.contains(&file.as_str()) {
            self.left_out.push((file, "it is no file of the state that is known".into()));
            return Ok(());
        }
        let length = fs::metadata(path).map_err(|error| Error::io(READ, path, error))?.len();
        if length > MOST {
            return Err(Error::new(ErrorKind::DataInvalid, READ, "the file is too large")
                .with_fault(Fault::Operator)
                .with("path", path.display())
                .with("bytes", length)
                .with("most", MOST));
        }
        let bytes = fs::read(path).map_err(|error| Error::io(READ, path, error))?;
        self.files.push((file.clone(), Digest::of(&bytes)));
        let Ok(text) = String::from_utf8(bytes) else {
            self.not_understood(&file, 1, "it is not UTF-8");
            return Ok(());
        };
        match file.as_str() {
            "model_fingerprints.json" => self.read_fingerprints(&file, &text),
            "king.json" => self.read_king(&file, &text),
            _ => match elements(&text) {
                Ok(elements) => self.read_elements(&file, elements),
                Err((line, why)) => self.not_understood(&file, line, why),
            },
        }
        Ok(())
    }

    fn read_king(&mut self, file: &str, text: &str) {
        match serde_json::from_str::<Option<Value>>(text) {
            Ok(None) => {}
            Ok(Some(value)) => {
                let line = line_of(text, "\"hotkey\"");
                self.add_king(file, line, value);
            }
            Err(error) => self.not_understood(file, error.line().max(1), error.to_string()),
        }
    }

    fn add_king(&mut self, file: &str, line: usize, value: Value) {
        let king = match serde_json::from_value::<PythonKing>(value) {
            Ok(king) => king,
            Err(error) => return self.not_understood(file, line, format!("it is no king: {error}")),
        };
        if reference(&EntrySettings::default(), &king.model_repo, &king.model_digest).is_err() {
            let why = format!("the king's model has no pin: {}@{}", king.model_repo, king.model_digest);
            return self.not_understood(file, line, why);
        }
        self.add_content(&king.model_repo, &king.model_digest, "was a king before");
        if king.hotkey.is_empty() {
            self.genesis = Some(king);
        } else {
            self.hotkeys.insert(Hotkey(king.hotkey.clone()), "was a king before".into());
            self.kings.push(king);
        }
    }

    fn add_content(&mut self, repository: &str, pin: &str, why: &str) {
        self.contents.entry((repository.into(), pin.into())).or_insert_with(|| why.into());
    }

    fn add_hotkey(&mut self, hotkey: &str, why: String) {
        self.hotkeys.entry(Hotkey(hotkey.into())).or_insert(why);
    }

    fn read_elements(&mut self, file: &str, elements: Vec<(usize, Value)>) {
        // The newest king is the first.
        let elements: Vec<_> =
            if file == "king_chain.json" { elements.into_iter().rev().collect() } else { elements };
        for (line, value) in elements {
            let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
            match file {
                "king_chain.json" => self.add_king(file, line, value),
                "seen_hotkeys.json" => match value.as_str().filter(|text| !text.is_empty()) {
                    Some(hotkey) => self.add_hotkey(hotkey, "has taken part before".into()),
                    None => self.not_understood(file, line, "it is no hotkey"),
                },
                "used_hotkeys.json" => match text("hotkey") {
                    Some(hotkey) => {
                        let source = text("source").map(|source| format!(" ({source})")).unwrap_or_default();
                        self.add_hotkey(hotkey, format!("has taken part before{source}"));
                    }
                    None => self.not_understood(file, line, "it names no `hotkey`"),
                },
                "completed_repos.json" => match value.as_str().filter(|text| !text.is_empty()) {
                    Some(repository) => self.add_content(repository, "", "has taken part before"),
                    None => self.not_understood(file, line, "it is no repository"),
                },
                _ => match (text("type"), text("model_repo"), text("model_digest")) {
                    (Some("verdict"), Some(repository), Some(pin)) => {
                        self.add_content(repository, pin, "has had a verdict before");
                    }
                    // It had no verdict: it may enter.
                    (Some("failure"), ..) => {}
                    _ => self.not_understood(
                        file,
                        line,
                        "it is neither a verdict of a pinned model nor a failure",
                    ),
                },
            }
        }
    }

    fn read_fingerprints(&mut self, file: &str, text: &str) {
        let entries = match serde_json::from_str::<BTreeMap<String, Value>>(text) {
            Ok(entries) => entries,
            Err(error) => return self.not_understood(file, error.line().max(1), error.to_string()),
        };
        for (label, value) in entries {
            let read = serde_json::from_value::<Fingerprint>(value).map_err(|error| error.to_string());
            let checked = read.and_then(|fingerprint| match fingerprint.check() {
                Ok(()) => Ok(fingerprint),
                Err(error) => Err(error.message().to_owned()),
            });
            match checked {
                Ok(fingerprint) => self.fingerprints.push((label, fingerprint)),
                Err(why) => {
                    let needle = serde_json::to_string(&label).unwrap_or_default();
                    self.not_understood(file, line_of(text, &needle), format!("{label}: {why}"));
                }
            }
        }
    }

    /// The first king that the state names, if it does.
    pub fn genesis(&self, entry: &EntrySettings) -> Option<ModelRef> {
        let king = self.genesis.as_ref()?;
        reference(entry, &king.model_repo, &king.model_digest).ok().map(ModelRef::from)
    }

    /// What enters the ledger, with `genesis` as the first king.
    ///
    /// # Errors
    /// A king's reference is malformed.
    pub fn entered(&self, genesis: ModelRef, entry: &EntrySettings) -> Result<Entered> {
        let king = |king: &PythonKing| -> Result<ImportedKing> {
            Ok(ImportedKing {
                hotkey: Hotkey(king.hotkey.clone()),
                model: ModelRef::from(reference(entry, &king.model_repo, &king.model_digest)?),
                crowned_ms: king.crowned_at.map_or(0, |seconds| (seconds.max(0.0) * 1000.0) as u64),
                crowned_block: king.crowned_block.or(king.block),
            })
        };
        Ok(Entered {
            source: self.source()?,
            genesis,
            kings: self.kings.iter().map(king).collect::<Result<_>>()?,
            hotkeys: self.hotkeys.iter().map(|(hotkey, why)| (hotkey.clone(), why.clone())).collect(),
            contents: self
                .contents
                .iter()
                .map(|((repository, pin), why)| (repository.clone(), pin.clone(), why.clone()))
                .collect(),
            fingerprints: self.fingerprints.len() as u64,
        })
    }

    /// Puts the fingerprints into the store of `config`'s screens, except those that are
    /// there.
    ///
    /// # Errors
    /// The store's.
    pub fn remember(&self, config: &ValidatorConfig) -> Result<usize> {
        let state = config.state();
        fs::create_dir_all(&state).map_err(|error| Error::io(READ, &state, error))?;
        let store = Store::open_or_create(&state.join("screens.sqlite"))?;
        let there: BTreeSet<_> = store.fingerprints()?.into_iter().map(|stored| stored.label).collect();
        let mut added = 0;
        for (label, fingerprint) in self.fingerprints.iter().filter(|(label, _)| !there.contains(label)) {
            store.add(&Submission {
                label: label.clone(),
                hotkey: fingerprint.hotkey.clone(),
                block: None,
                parameters: None,
                fingerprint: Some(fingerprint.clone()),
                sketch: None,
                tensors: Vec::new(),
            })?;
            added += 1;
        }
        Ok(added)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn king(hotkey: &str, digit: char, at: u64) -> Value {
        serde_json::json!({
            "hotkey": hotkey, "model_repo": format!("{digit}/albedo-qwen3-4b-x"),
            "model_digest": format!("sha256:{}", digit.to_string().repeat(64)), "block": at, "crowned_block": at + 1,
            "challenge_id": "eval-000001", "dethrone_judges": [], "crown_judges": [], "crowned_at": at as f64 + 0.5,
        })
    }

    fn folder(files: &[(&str, String)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("makes");
            fs::write(path, text).expect("writes");
        }
        folder
    }

    #[test]
    fn the_kings_come_in_the_order_of_their_reigns() {
        let chain = Value::from(vec![king("bob", 'b', 20), king("ann", 'a', 10), king("", '0', 1)]);
        let place = folder(&[
            ("king.json", king("cat", 'c', 30).to_string()),
            ("king_chain.json", chain.to_string()),
            ("queue.json", "[]".into()),
        ]);
        let import = read_import(place.path()).expect("reads");
        assert_eq!(import.unread, []);
        assert_eq!(import.left_out.len(), 1);
        let entry = EntrySettings::default();
        let genesis = import.genesis(&entry).expect("it is in the chain");
        assert!(genesis.to_string().contains("0/albedo"), "{genesis}");
        let entered = import.entered(genesis, &entry).expect("fits");
        let kings: Vec<_> =
            entered.kings.iter().map(|king| (king.hotkey.0.as_str(), king.crowned_ms)).collect();
        assert_eq!(kings, [("ann", 10_500), ("bob", 20_500), ("cat", 30_500)]);
        assert_eq!(entered.kings[0].crowned_block, Some(11));
        // The same files are the same source, wherever they are.
        let copy = folder(&[
            ("king.json", king("cat", 'c', 30).to_string()),
            (
                "king_chain.json",
                Value::from(vec![king("bob", 'b', 20), king("ann", 'a', 10), king("", '0', 1)]).to_string(),
            ),
        ]);
        let again = read_import(copy.path()).expect("reads");
        assert_eq!(import.source().expect("a digest"), again.source().expect("a digest"));
    }

    #[test]
    fn what_is_not_understood_is_named_with_its_line() {
        let place = folder(&[
            ("seen_hotkeys.json", "[\n \"5Fa\",\n 7,\n \"5Fb\"\n]".into()),
            ("completed_repos.json", "[\"x/y\"".into()),
            ("king.json", "{\n \"hotkey\": \"ann\"\n}".into()),
            ("history.json", "[{\"type\": \"failure\"},\n{\"type\": \"other\"}]".into()),
            (
                "evals/state/model_fingerprints.json",
                "{\"x/y@sha256:1\":\n {\"method\": \"m\", \"layer_keys\": [\"a\"], \"norm_vector\": [1.0], \"hotkey\": \"h\"},\n\
                 \"x/z@sha256:2\":\n {\"method\": \"m\", \"layer_keys\": [\"a\"], \"norm_vector\": [1.0, 2.0]}}"
                    .into(),
            ),
            ("used_hotkeys.json", "{\"hotkey\": \"5Fc\", \"source\": \"swap\"}\n{\"source\": \"eval\"}\n".into()),
        ]);
        let import = read_import(place.path()).expect("reads");
        let unread: BTreeSet<_> =
            import.unread.iter().map(|unread| (unread.file.as_str(), unread.line)).collect();
        let expected = [
            ("completed_repos.json", 1),
            ("history.json", 2),
            ("king.json", 2),
            ("model_fingerprints.json", 3),
            ("seen_hotkeys.json", 3),
            ("used_hotkeys.json", 2),
        ];
        assert_eq!(unread, expected.into());
        let found = import.found();
        assert_eq!((found.hotkeys, found.fingerprints, found.kings), (3, 1, 0));
    }

    #[test]
    fn a_folder_without_any_of_it_is_refused() {
        let place = folder(&[("notes.txt", "x".into())]);
        let error = read_import(place.path()).expect_err("nothing is there");
        assert_eq!(error.kind(), ErrorKind::DataInvalid);
        assert_eq!(
            read_import(&place.path().join("none")).expect_err("no folder").kind(),
            ErrorKind::NotFound
        );
    }
}
