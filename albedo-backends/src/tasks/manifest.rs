//! `manifest.json`: which shards there are, and which rows they hold.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use albedo_core::{Digest, Error, ErrorKind, Fault, Result, TaskSetInfo};
use serde::Deserialize;

use super::OPEN;

/// A checked manifest. Rows are found by prefix sums over the shards: its size
/// does not grow with the rows.
#[derive(Debug, Clone)]
pub struct Manifest {
    info: TaskSetInfo,
    shards: Vec<ShardEntry>,
}

/// One shard of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardEntry {
    /// Path below the manifest's folder, `/` between parts.
    pub name: String,
    /// Rows before this shard.
    pub start: u64,
    /// Rows in it.
    pub rows: u64,
    /// Size in bytes, if pinned.
    pub bytes: Option<u64>,
    /// SHA-256, if pinned.
    pub sha256: Option<Digest>,
}

impl Manifest {
    /// Parses and checks the manifest in `bytes`.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`]: it is no manifest, has no rows, its
    /// `total_rows` is not the sum of its shards', it names a shard twice or
    /// one outside its folder.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let parsed: ManifestFile = serde_json::from_slice(bytes)
            .map_err(|error| invalid(error.to_string()).with_hint("it must be the data set's manifest"))?;
        let (mut shards, mut names, mut rows) = (Vec::new(), BTreeSet::new(), 0_u64);
        for (index, shard) in parsed.shards.into_iter().enumerate() {
            let name = shard.checked_name().map_err(|error| error.with("index", index))?;
            if !names.insert(name.clone()) {
                return Err(invalid("a shard is named twice").with("shard", name));
            }
            let start = rows;
            rows = rows
                .checked_add(shard.rows)
                .ok_or_else(|| invalid("the shards have more rows than can be counted"))?;
            shards.push(ShardEntry {
                name,
                start,
                rows: shard.rows,
                bytes: shard.bytes,
                sha256: shard.sha256,
            });
        }
        if rows != parsed.total_rows {
            return Err(invalid("`total_rows` is not the sum of the shards' rows")
                .with("total_rows", parsed.total_rows)
                .with("sum", rows));
        }
        if rows == 0 {
            return Err(invalid("there are no rows"));
        }
        let unhashed = shards.iter().any(|shard| shard.sha256.is_none());
        Ok(Self { info: TaskSetInfo { manifest: Digest::of(bytes), rows, unhashed }, shards })
    }

    /// What the manifest pins.
    pub fn info(&self) -> &TaskSetInfo {
        &self.info
    }

    /// Its shards, in row order.
    pub fn shards(&self) -> &[ShardEntry] {
        &self.shards
    }

    /// Place in [`Manifest::shards`] of the shard that holds `row`, and the
    /// row's place in it; none past the end.
    pub fn locate(&self, row: u64) -> Option<(usize, u64)> {
        let shard = self.shards.partition_point(|shard| shard.start <= row).checked_sub(1)?;
        let within = row - self.shards[shard].start;
        (within < self.shards[shard].rows).then_some((shard, within))
    }
}

/// The file as it is written; other keys are somebody else's.
#[derive(Deserialize)]
struct ManifestFile {
    shards: Vec<ShardFile>,
    total_rows: u64,
}

#[derive(Deserialize)]
struct ShardFile {
    name: Option<String>,
    path: Option<String>,
    rows: u64,
    bytes: Option<u64>,
    sha256: Option<Digest>,
}

impl ShardFile {
    fn checked_name(&self) -> Result<String> {
        let name = match (&self.name, &self.path) {
            (Some(name), Some(path)) if name != path => {
                return Err(invalid("a shard's `name` and `path` differ")
                    .with("name", name)
                    .with("path", path));
            }
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => return Err(invalid("a shard has neither `name` nor `path`")),
        };
        let plain = |part| matches!(part, Component::Normal(_));
        if name.is_empty() || name.contains('\0') || !Path::new(name).components().all(plain) {
            return Err(invalid("a shard's name is no path below the folder").with("shard", name));
        }
        Ok(name.clone())
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::DataInvalid, OPEN, message).with_fault(Fault::Operator)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn manifest(rows: &[u64]) -> Manifest {
        let shard = |(index, rows): (usize, &u64)| json!({ "name": format!("{index}"), "rows": rows });
        let shards: Vec<_> = rows.iter().enumerate().map(shard).collect();
        let total: u64 = rows.iter().sum();
        let bytes = json!({ "shards": shards, "total_rows": total }).to_string();
        Manifest::parse(bytes.as_bytes()).expect("a manifest")
    }

    fn refusal(manifest: &serde_json::Value) -> String {
        let error = Manifest::parse(manifest.to_string().as_bytes()).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::DataInvalid);
        error.to_string()
    }

    proptest! {
        #[test]
        fn every_row_is_found_where_counting_finds_it(
            rows in prop::collection::vec(0_u64..5, 1..12).prop_filter("no rows", |rows| rows.iter().sum::<u64>() > 0),
        ) {
            let manifest = manifest(&rows);
            let counted = rows.iter().enumerate().flat_map(|(shard, &rows)| (0..rows).map(move |row| (shard, row)));
            let located: Vec<_> = (0..).map_while(|row| manifest.locate(row)).collect();
            prop_assert_eq!(located, counted.collect::<Vec<_>>());
            prop_assert_eq!(manifest.info().rows, rows.iter().sum::<u64>());
            prop_assert_eq!(manifest.locate(u64::MAX), None);
        }
    }

    #[test]
    fn the_digest_is_that_of_the_bytes() {
        let bytes = br#"{"shards": [{"path": "a", "rows": 1}], "total_rows": 1, "turns": 3}"#;
        let manifest = Manifest::parse(bytes).expect("a manifest");
        assert_eq!(manifest.info().manifest, Digest::of(bytes));
        assert!(manifest.info().unhashed);
        assert_eq!(manifest.shards()[0].name, "a");
    }

    #[test]
    fn what_is_no_manifest_is_refused_with_the_reason() {
        let shard = |name: &str, rows: u64| json!({ "name": name, "rows": rows });
        let of = |shards: &[serde_json::Value], rows: u64| json!({ "shards": shards, "total_rows": rows });
        for (manifest, reason) in [
            (json!({ "total_rows": 1 }), "missing field `shards`"),
            (json!({ "shards": [] }), "missing field `total_rows`"),
            (of(&[], 0), "there are no rows"),
            (of(&[shard("a", 0)], 0), "there are no rows"),
            (of(&[shard("a", 3)], 4), "not the sum of the shards' rows (total_rows: 4, sum: 3)"),
            (of(&[shard("a", u64::MAX), shard("b", 1)], 0), "more rows than can be counted"),
            (of(&[shard("a", 1), shard("a", 1)], 2), "a shard is named twice (shard: a)"),
            (of(&[json!({ "rows": 1 })], 1), "neither `name` nor `path` (index: 0)"),
            (of(&[json!({ "name": "a", "path": "b", "rows": 1 })], 1), "`name` and `path` differ"),
            (of(&[json!({ "name": "a", "rows": -1 })], 1), "invalid value: integer `-1`"),
            (of(&[json!({ "name": "a", "rows": 1, "sha256": "ab" })], 1), "`ab` is not 64 hexadecimal"),
        ] {
            let message = refusal(&manifest);
            assert!(message.contains(reason), "{message}");
        }
        assert!(Manifest::parse(b"PAR1").is_err());
    }

    #[test]
    fn shards_outside_the_folder_are_refused() {
        for name in ["", "/etc/passwd", "../a", "a/../../b", "./a", "a\0b"] {
            let manifest = json!({ "shards": [{ "name": name, "rows": 1 }], "total_rows": 1 });
            assert!(refusal(&manifest).contains("no path below the folder"), "{name}");
        }
    }
}
