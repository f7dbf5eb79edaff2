//! The card of an export: what the `datasets` package and people read first.

use std::fmt::Write;

use super::{Exported, Set};
use crate::Digest;

/// The card of `files`, made of `records`.
pub(super) fn text(files: &[Exported], records: &[Digest], license: Option<&str>) -> String {
    let mut text = String::from("---\n");
    // Writing to a string cannot fail, here and below.
    if let Some(license) = license {
        // A JSON string is a YAML string, too.
        let _ = writeln!(text, "license: {}", serde_json::Value::from(license));
    }
    text.push_str("configs:\n");
    for set in Set::ALL {
        let of_set = files.iter().filter(|file| file.set == set).collect::<Vec<_>>();
        if of_set.is_empty() {
            continue;
        }
        let _ = writeln!(text, "- config_name: {}\n  data_files:", set.name());
        for file in of_set {
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
