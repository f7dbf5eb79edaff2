//! The card of an export: what the `datasets` package and people read first.

use std::fmt::Write;

use super::{Exported, Set};
use crate::Digest;
use crate::backends::tables::Kind;

/// The card of `files`, made of `records`. It states the type of every column: `datasets` would guess them from the first
/// rows, and a list that is empty in all of those would be one of nothing.
pub(super) fn text(files: &[Exported], records: &[Digest], license: Option<&str>) -> String {
    let mut text = String::from("---\n");
    // Writing to a string cannot fail, here and below.
    if let Some(license) = license {
        // A JSON string is a YAML string, too.
        let _ = writeln!(text, "license: {}", serde_json::Value::from(license));
    }
    let sets = || Set::ALL.into_iter().filter(|set| files.iter().any(|file| file.set == *set));
    text.push_str("dataset_info:\n");
    for set in sets() {
        let _ = writeln!(text, "- config_name: {}\n  features:", set.name());
        for column in set.columns() {
            let _ = writeln!(text, "  - name: {}\n    {}", column.name, feature(column.kind));
        }
    }
    text.push_str("configs:\n");
    for set in sets() {
        let _ = writeln!(text, "- config_name: {}\n  data_files:", set.name());
        for file in files.iter().filter(|file| file.set == set) {
            let (split, path) = (file.split.name(), file.path.display());
            let _ = writeln!(text, "  - split: {split}\n    path: {path}");
        }
    }
    text.push_str("---\n\n# Duels of language models\n\n");
    text.push_str(
        "Written by `albedo record export`. A repository is in one split, in every export. \
         The columns are described in albedo's guide `docs/export.md`.\n\n| file | rows |\n|---|---|\n",
    );
    for Exported { path, rows, .. } in files {
        let _ = writeln!(text, "| `{}` | {rows} |", path.display());
    }
    text.push_str("\nMade of the records with these digests:\n\n");
    for record in records {
        let _ = writeln!(text, "- `{record}`");
    }
    text
}

/// The type of a column as a card states it, below the column's name. Every type of `datasets` may be null.
fn feature(kind: Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::MaybeText => "dtype: string",
        Kind::Integer => "dtype: int64",
        Kind::Number | Kind::MaybeNumber => "dtype: float64",
        Kind::Flag => "dtype: bool",
        Kind::Texts => "list: string",
        Kind::Numbers => "list: float64",
        Kind::Ids => "list: int32",
        Kind::Messages => {
            "list:\n    - name: role\n      dtype: string\n    - name: content\n      dtype: string"
        }
    }
}
