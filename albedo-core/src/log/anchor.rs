//! Heads of a log that stand on a chain, as commitments of a hotkey.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Head;
use super::monitor::not_a_list;
use crate::digest::Digest;
use crate::error::Result;

/// What the text of such a commitment begins with.
const PREFIX: &str = "albedo-log|1|";

/// How many entries a log has and the hash of its tree, as the text of a commitment:
/// `albedo-log|1|SIZE|ROOT`, the hash in 64 hexadecimal digits. Everybody who reads the
/// chain holds a head of the log, dated by its block.
///
/// ```
/// use albedo_core::Digest;
/// use albedo_core::log::AnchoredHead;
///
/// let head = AnchoredHead { size: 7, root: Digest::of("tree") };
/// let text = head.to_string();
/// assert!(text.starts_with("albedo-log|1|7|") && text.len() <= 128);
/// assert_eq!(AnchoredHead::parse(&text), Some(head));
/// assert_eq!(AnchoredHead::parse("v7|someone/model|main"), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AnchoredHead {
    /// How many entries.
    pub size: u64,
    /// The hash of the tree.
    pub root: Digest,
}

impl AnchoredHead {
    /// Reads the text of a commitment; `None` if it is no head of a log.
    pub fn parse(text: &str) -> Option<Self> {
        let (size, root) = text.strip_prefix(PREFIX)?.split_once('|')?;
        let head = Self { size: size.parse().ok()?, root: root.parse().ok()? };
        (head.to_string() == text).then_some(head)
    }
}

impl From<&Head> for AnchoredHead {
    fn from(head: &Head) -> Self {
        Self { size: head.size, root: head.root }
    }
}

impl fmt::Display for AnchoredHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}|{}", self.size, self.root)
    }
}

/// A head that a hotkey put on chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Anchor {
    /// The head.
    pub head: AnchoredHead,
    /// The block of the commitment.
    pub block: u64,
}

impl Anchor {
    /// Reads the heads that `hotkey` put on chain from what `albedo chain reveals --json`
    /// prints, the earliest first. The chain keeps one commitment per hotkey, so that a list
    /// of `--ledger FILE` has more of them.
    ///
    /// # Errors
    /// The operator's: it is not such a list.
    pub fn read(json: &[u8], hotkey: &str) -> Result<Vec<Self>> {
        #[derive(Deserialize)]
        struct List {
            reveals: Vec<Row>,
        }
        #[derive(Deserialize)]
        struct Row {
            hotkey: String,
            place: Option<Place>,
            content: Option<serde_json::Value>,
        }
        #[derive(Deserialize)]
        struct Place {
            block: u64,
        }
        let list: List = serde_json::from_slice(json).map_err(|error| not_a_list(&error))?;
        let ours = list.reveals.into_iter().filter(|row| row.hotkey == hotkey);
        let mut anchors: Vec<_> = ours
            .filter_map(|Row { place, content, .. }| {
                let head = AnchoredHead::parse(content?.get("text")?.as_str()?)?;
                Some(Self { head, block: place?.block })
            })
            .collect();
        anchors.sort_by_key(|anchor| (anchor.block, anchor.head.size));
        Ok(anchors)
    }
}

/// An announcement that a head on chain covers: it was made before that block was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Attested {
    /// The announcement's place in the log, from 0.
    pub entry: u64,
    /// The first block with such a head.
    pub block: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_not_written_so_is_no_head() {
        let root = Digest::of("tree");
        for text in [
            format!("albedo-log|2|7|{root}"),
            format!("albedo-log|1|07|{root}"),
            format!("albedo-log|1|+7|{root}"),
            format!("albedo-log|1|7|{}", root.to_string().to_uppercase()),
            format!("albedo-log|1|7|{root}|"),
            format!("albedo-log|1|99999999999999999999|{root}"),
            "albedo-log|1|7".into(),
            String::new(),
        ] {
            assert_eq!(AnchoredHead::parse(&text), None, "{text}");
        }
        let longest = AnchoredHead { size: u64::MAX, root };
        assert!(longest.to_string().len() <= 128, "a field of a commitment holds 128 bytes");
    }

    #[test]
    fn heads_are_read_from_the_chains_list() {
        let head = AnchoredHead { size: 2, root: Digest::of("tree") };
        let row = |hotkey: &str, block: u64, text: &str| serde_json::json!({"hotkey": hotkey, "place": {"block": block}, "content": {"text": text}});
        let hidden = serde_json::json!({"hotkey": "us", "place": {"block": 1}, "content": {"hidden": {}}});
        let rows = [
            row("us", 9, &head.to_string()),
            hidden,
            row("us", 4, "v7|a/b|c"),
            row("them", 3, &head.to_string()),
            row("us", 5, &AnchoredHead { size: 1, ..head }.to_string()),
        ];
        let list = serde_json::json!({"block": {}, "reveals": rows}).to_string();
        let anchors = Anchor::read(list.as_bytes(), "us").expect("reads");
        assert_eq!(
            anchors.iter().map(|anchor| (anchor.block, anchor.head.size)).collect::<Vec<_>>(),
            [(5, 1), (9, 2)]
        );
        let error = Anchor::read(b"[]", "us").expect_err("no list");
        assert!(error.to_string().contains("albedo chain reveals --json"), "{error}");
    }
}
