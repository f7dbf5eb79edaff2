//! The guide to `--json` as tests read it: every command's keys, and which commands have
//! been compared with it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

/// `docs/machine-output.md`.
pub(crate) struct Guide {
    /// The keys of what each title documents: a command, perhaps with an option or a case.
    sections: BTreeMap<String, Vec<Key>>,
    /// Titles that nothing has been compared with.
    unchecked: BTreeSet<String>,
}

/// One documented key.
struct Key {
    /// The object or the list of objects that it is in: `limits`, `files[]`.
    parent: String,
    name: String,
    /// It can be absent.
    optional: bool,
}

impl Guide {
    pub(crate) fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/machine-output.md");
        let guide = fs::read_to_string(path).expect("the guide");
        let mut sections = BTreeMap::new();
        for section in guide.split("\n## ").skip(1) {
            let (heading, rows) = section.split_once('\n').expect("a heading");
            for title in titles(heading) {
                sections.insert(title, rows.lines().flat_map(keys).collect());
            }
        }
        let unchecked = sections.keys().cloned().collect();
        Self { sections, unchecked }
    }

    /// The documented commands.
    pub(crate) fn commands(&self) -> BTreeSet<String> {
        self.sections.keys().map(|title| command(title).to_owned()).collect()
    }

    /// Titles that nothing was compared with, of commands for which `counts`.
    pub(crate) fn unchecked(&self, counts: impl Fn(&str) -> bool) -> Vec<&str> {
        self.unchecked.iter().map(String::as_str).filter(|title| counts(command(title))).collect()
    }

    /// Compares what a command has printed with its section.
    #[track_caller]
    pub(crate) fn check(&mut self, title: &str, printed: &str) -> Value {
        assert!(printed.starts_with('{'), "{title}: nothing but JSON is on standard output: {printed}");
        let json: Value = serde_json::from_str(printed).expect("JSON");
        assert_eq!(json["schema"], 1, "{title}");
        let keys = self.sections.get(title).expect("a section of this title");
        for parent in keys.iter().map(|key| key.parent.as_str()).collect::<BTreeSet<_>>() {
            let of = || keys.iter().filter(move |key| key.parent == parent);
            let known: BTreeSet<_> = of().map(|key| key.name.as_str()).collect();
            for object in objects(&json, parent) {
                let found: BTreeSet<_> = object.keys().map(String::as_str).collect();
                let undocumented: Vec<_> = found.difference(&known).collect();
                let absent = of().filter(|key| !key.optional && !found.contains(key.name.as_str()));
                let absent: Vec<_> = absent.map(|key| &key.name).collect();
                assert!(
                    undocumented.is_empty() && absent.is_empty(),
                    "{title}: in `{parent}`, not documented: {undocumented:?}, not printed: {absent:?}"
                );
            }
        }
        self.unchecked.remove(title);
        json
    }
}

/// `` `albedo publish push`, `albedo publish retry` `` has two titles, `` `albedo duel`, not
/// admitted `` has one.
fn titles(heading: &str) -> Vec<String> {
    let (named, rest) = heading.rsplit_once('`').unwrap_or_default();
    let named = named.split('`').filter_map(|part| part.strip_prefix("albedo "));
    named.map(|command| format!("{command}{rest}")).collect()
}

/// The command of a title: `log verify` of `log verify --proof FILE`.
fn command(title: &str) -> &str {
    title.split([',', '-']).next().unwrap_or_default().trim()
}

/// The keys of one row of a table.
fn keys(row: &str) -> Vec<Key> {
    let Some((cell, meaning)) = row.strip_prefix("| `").and_then(|row| row.split_once(" | ")) else {
        return Vec::new();
    };
    let paths = cell.split('`').step_by(2);
    let key = |path: &str| {
        let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
        Key { parent: parent.into(), name: name.into(), optional: meaning.starts_with("if ") }
    };
    let mut keys: Vec<_> = paths.map(key).collect();
    // `limits.quota` says that there is `limits`.
    let parents: BTreeSet<_> = keys.iter().map(|key| key.parent.clone()).collect();
    for parent in parents.iter().filter(|parent| !parent.is_empty()) {
        let (parent, name) = parent.trim_end_matches("[]").rsplit_once('.').unwrap_or(("", parent.as_str()));
        let name = name.trim_end_matches("[]");
        keys.push(Key { parent: parent.into(), name: name.into(), optional: meaning.starts_with("if ") });
    }
    keys
}

/// The objects at `path` of `json`; none where it is `null`.
fn objects<'a>(json: &'a Value, path: &str) -> Vec<&'a Map<String, Value>> {
    let mut found = vec![json];
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let name = part.trim_end_matches("[]");
        found = found.into_iter().filter_map(|value| value.get(name)).collect();
        if name != part {
            found = found.into_iter().filter_map(Value::as_array).flatten().collect();
        }
    }
    found.into_iter().filter_map(Value::as_object).collect()
}

/// The commands of the manual pages in `folder` that have the option `--json`.
pub(crate) fn commands_with_json(folder: &Path) -> BTreeSet<String> {
    let pages = fs::read_dir(folder).expect("lists").map(|entry| entry.expect("an entry").path());
    let with = pages.filter(|page| fs::read_to_string(page).expect("reads").contains(r"\-\-json"));
    let name = |page: std::path::PathBuf| {
        let name = page.file_stem()?.to_str()?.strip_prefix("albedo-")?.replace('-', " ");
        Some(name)
    };
    with.filter_map(name).collect()
}
