//! What a listing must be before anything of it touches the disk.

use std::collections::BTreeSet;

use albedo_core::{Error, ErrorKind, Fault, FileEntry, Result};

use super::HOLD;

/// Checks that every file has a digest, that names stay in the model's folder and
/// that none is listed twice or is the folder of another. Hubs check what they parse
/// themselves, and say whose fault it is; this is for a hub that does not.
pub(super) fn listing(entries: &[FileEntry]) -> Result<()> {
    let distrusted = |entry: &FileEntry, message: &str| {
        Error::new(ErrorKind::DataInvalid, HOLD, message)
            .with_fault(Fault::Infrastructure)
            .with("file", entry.name.escape_default())
    };
    if entries.is_empty() {
        return Err(Error::new(ErrorKind::DataInvalid, HOLD, "the listing has no files")
            .with_fault(Fault::Infrastructure));
    }
    let names: BTreeSet<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    for entry in entries {
        if entry.sha256.is_none() {
            return Err(distrusted(entry, "its listing has no digest of the file"));
        }
        if let Err(why) = name(&entry.name) {
            return Err(distrusted(entry, why));
        }
        let mut folders = entry.name.match_indices('/').map(|(at, _)| &entry.name[..at]);
        if folders.any(|folder| names.contains(folder)) {
            return Err(distrusted(entry, "a file's name is the folder of another"));
        }
    }
    if names.len() < entries.len() {
        return Err(distrusted(&entries[0], "the listing names a file twice"));
    }
    Ok(())
}

/// Why `name` cannot be a file of a model: `/` between parts, each of which every
/// file system can hold.
pub(crate) fn name(name: &str) -> Result<(), &'static str> {
    /// Longest part and longest name in bytes: what Linux and macOS have.
    const PART: usize = 255;
    const WHOLE: usize = 1024;
    if name.len() > WHOLE {
        return Err("the name has more than 1024 bytes");
    }
    if name.starts_with('/') {
        return Err("the name leaves the model's folder: it is absolute");
    }
    for part in name.split('/') {
        match part {
            "" => return Err("the name leaves the model's folder: it has an empty part"),
            "." | ".." => return Err("the name leaves the model's folder: it has a part `.` or `..`"),
            _ if part.len() > PART => return Err("a part of the name has more than 255 bytes"),
            _ if part.contains(['\\', ':']) || part.contains(char::is_control) => {
                return Err("the name leaves the model's folder: it has `\\`, `:` or a control character");
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use albedo_core::Digest;

    use super::*;

    #[test]
    fn hostile_names_never_reach_the_disk() {
        for bad in ["", "/a", "../a", "a/../b", "a//b", "a/", "./a", "a\\b", "C:a", "a\0b", "a\nb"] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
        assert!(name(&"a".repeat(256)).is_err() && name(&"a/".repeat(600)).is_err());
        for good in ["config.json", "sub/model.safetensors", ".gitattributes", "..a", "a b", "ä"] {
            assert!(name(good).is_ok(), "{good}");
        }
        let entry = |name: &str| FileEntry::new(name, 1).with_sha256(Digest::of("x"));
        for (listed, words) in [
            (vec![], "no files"),
            (vec![FileEntry::new("a", 1)], "no digest"),
            (vec![entry("a"), entry("a")], "twice"),
            (vec![entry("a"), entry("a/b")], "folder of another"),
            (vec![entry("../a")], "leaves the model's folder"),
        ] {
            let error = listing(&listed).expect_err(words);
            assert!(error.to_string().contains(words), "{error}");
            assert_eq!(error.fault(), Fault::Infrastructure);
        }
    }
}
