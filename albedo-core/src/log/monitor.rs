//! What is wrong with a log, beyond that its files fit together.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::merkle::leaf_hash;
use super::reader::{parse, root};
use super::{Anchor, AnchoredHead, Announced, Attested, End, Ended, Entry, Forfeited, Head, Submission};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::record::AnyRecord;

/// Something that an honest log has not, or that only time excuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "finding", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Finding {
    /// A plan was announced and has no end. While its duel runs that is as it should
    /// be.
    NoEnd {
        /// The announcement's place, from 0.
        entry: u64,
        /// The announcement.
        announced: Announced,
    },
    /// An entry ends a duel that no entry before it announced, or a second time.
    WrongEnd {
        /// The entry's place, from 0.
        entry: u64,
        /// The entry that it says announced the duel.
        announced: u64,
    },
    /// A submission that a chain revealed never entered the log.
    NeverEntered {
        /// The submission.
        submission: Submission,
        /// The first block at which everybody could read it, if the list tells.
        block: Option<u64>,
    },
    /// A head that somebody holds, or that is on chain, has another hash for the same
    /// entries: there are two histories, of which both heads together are the proof.
    Contradiction {
        /// The head that somebody holds, or the text on chain.
        held: String,
        /// The log's.
        head: String,
        /// The hash that the log has for as many entries.
        root: Digest,
    },
    /// A head that somebody holds, or that is on chain, covers more entries than the log
    /// shows.
    Truncated {
        /// The head that somebody holds, or the text on chain.
        held: String,
        /// How many entries the log shows.
        size: u64,
    },
    /// A record that is not in the log.
    NotLogged {
        /// The record's digest.
        record: Digest,
    },
    /// A record whose plan is not the one that was announced for it, or whose entry
    /// states another outcome.
    NotAsAnnounced {
        /// The record's digest.
        record: Digest,
        /// The entry that names it.
        entry: u64,
    },
}

/// A submission that a chain revealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revealed {
    /// The submission.
    pub submission: Submission,
    /// The first block at which everybody could read it, if the list tells.
    pub block: Option<u64>,
}

impl Revealed {
    /// Reads the submissions in what `albedo chain reveals --json` prints. Commitments
    /// that are still hidden, or are no submission, are left out.
    ///
    /// # Errors
    /// The operator's: it is not such a list.
    pub fn read(json: &[u8]) -> Result<Vec<Self>> {
        #[derive(Deserialize)]
        struct List {
            reveals: Vec<Row>,
        }
        #[derive(Deserialize)]
        struct Row {
            hotkey: String,
            place: Option<Place>,
            readable_at: Option<u64>,
            submission: Option<Committed>,
        }
        #[derive(Deserialize)]
        struct Place {
            block: u64,
        }
        #[derive(Deserialize)]
        struct Committed {
            repository: String,
            pin: Pin,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Pin {
            Manifest(Digest),
            Revision(String),
        }
        let list: List = serde_json::from_slice(json).map_err(|error| not_a_list(&error))?;
        let revealed = |Row { hotkey, place, readable_at, submission }: Row| {
            let Committed { repository, pin } = submission?;
            let pin = match pin {
                Pin::Manifest(digest) => format!("sha256:{digest}"),
                Pin::Revision(revision) => revision,
            };
            let block = readable_at.or(place.map(|place| place.block));
            Some(Self { submission: Submission { hotkey, repository, pin }, block })
        };
        Ok(list.reveals.into_iter().filter_map(revealed).collect())
    }
}

/// A file is not what `albedo chain reveals --json` prints.
pub(super) fn not_a_list(error: &serde_json::Error) -> Error {
    Error::new(ErrorKind::DataInvalid, "read the chain's reveals", error.to_string())
        .with_fault(Fault::Operator)
        .with_hint("give the file that `albedo chain reveals --json` printed")
}

/// The entries of a log that were read and compared with its head, for the
/// questions that only all of them together answer.
#[derive(Debug, Clone)]
pub struct History {
    head: Head,
    hashes: Vec<Digest>,
    entries: Vec<Entry>,
}

impl History {
    /// The history of what [`Log::entries`](super::Log::entries) gave under `head`.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] with the number of an entry that is malformed.
    pub fn new(head: &Head, entries: &[Vec<u8>]) -> Result<Self> {
        let hashes = entries.iter().map(|entry| leaf_hash(entry)).collect();
        Ok(Self { head: head.clone(), hashes, entries: parse(entries)? })
    }

    /// The entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The announcement of the duel whose plan is `plan`, if it has no end: the last
    /// one.
    ///
    /// # Errors
    /// A bug: the plan has no JSON form.
    pub fn announcement(&self, plan: &crate::plan::DuelPlan) -> Result<Option<u64>> {
        let (open, _) = self.ends();
        for (&entry, announced) in open.iter().rev() {
            if announced.announces(plan)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// The place of the entry that names `record`.
    pub fn place(&self, record: Digest) -> Option<u64> {
        let names = |entry: &Entry| entry.record() == Some(record);
        self.entries.iter().position(names).map(|place| place as u64)
    }

    /// The entries that the log lacks of `record`, which was verified: its end, and its
    /// announcement if nobody announced it. `submission` says whose it is.
    ///
    /// # Errors
    /// A bug: its plan has no JSON form.
    pub fn lacks(&self, record: &AnyRecord, submission: Option<Submission>) -> Result<Vec<Entry>> {
        if self.place(record.digest()).is_some() {
            return Ok(Vec::new());
        }
        let next = self.entries.len() as u64;
        Ok(match record {
            AnyRecord::Forfeit(record) => {
                vec![Entry::Forfeited(Forfeited { record: record.digest, submission })]
            }
            AnyRecord::Duel(record) => match self.announcement(record.plan())? {
                Some(announced) => vec![Entry::Ended(Ended::recorded(announced, record)?)],
                None => vec![
                    Entry::Announced(Announced::new(record.plan(), submission)?),
                    Entry::Ended(Ended::recorded(next, record)?),
                ],
            },
        })
    }

    /// Plans without an end, and ends without a plan.
    pub fn check_ends(&self) -> Vec<Finding> {
        let (open, mut findings) = self.ends();
        findings.extend(
            open.into_iter().map(|(entry, announced)| Finding::NoEnd { entry, announced: announced.clone() }),
        );
        findings
    }

    fn ends(&self) -> (BTreeMap<u64, &Announced>, Vec<Finding>) {
        let (mut open, mut wrong) = (BTreeMap::new(), Vec::new());
        for (entry, logged) in (0..).zip(&self.entries) {
            match logged {
                Entry::Announced(announced) => {
                    open.insert(entry, announced);
                }
                Entry::Ended(Ended { announced, .. }) => {
                    if open.remove(announced).is_none() {
                        wrong.push(Finding::WrongEnd { entry, announced: *announced });
                    }
                }
                Entry::Forfeited(_) => {}
            }
        }
        (open, wrong)
    }

    /// Submissions among `revealed` that no entry names.
    pub fn check_reveals(&self, revealed: &[Revealed]) -> Vec<Finding> {
        let logged: BTreeSet<_> = self.entries.iter().filter_map(Entry::submission).collect();
        let mut missing = BTreeSet::new();
        let revealed = revealed.iter().filter(|revealed| !logged.contains(&revealed.submission));
        revealed
            .filter(|revealed| missing.insert(&revealed.submission))
            .map(|Revealed { submission, block }| Finding::NeverEntered {
                submission: submission.clone(),
                block: *block,
            })
            .collect()
    }

    /// Compares `held`, a head of the same log and key that somebody holds, with the
    /// log. Its signature is not verified here.
    ///
    /// # Errors
    /// The operator's: it is another log's.
    pub fn check_head(&self, held: &Head) -> Result<Option<Finding>> {
        if held.origin != self.head.origin {
            let message = "the head that is held is another log's";
            return Err(Error::new(ErrorKind::ConfigInvalid, "compare the heads", message)
                .with_fault(Fault::Operator)
                .with("held", &held.origin)
                .with("log", &self.head.origin));
        }
        Ok(self.compare(held.into(), || held.to_string()))
    }

    /// Compares `anchor`, a head that the log's owner put on chain, with the log.
    pub fn check_anchor(&self, anchor: &Anchor) -> Option<Finding> {
        self.compare(anchor.head, || anchor.head.to_string())
    }

    fn compare(&self, held: AnchoredHead, text: impl FnOnce() -> String) -> Option<Finding> {
        let Some(root) = self.root_of(held.size) else {
            return Some(Finding::Truncated { held: text(), size: self.head.size });
        };
        (root != held.root).then(|| Finding::Contradiction {
            held: text(),
            head: self.head.to_string(),
            root,
        })
    }

    /// The hash of the tree of the first `size` entries, if there are so many.
    fn root_of(&self, size: u64) -> Option<Digest> {
        let size = usize::try_from(size).ok()?;
        self.hashes.get(..size).map(root)
    }

    /// The announcements that a head on chain covers, with the first block of such a head.
    /// Heads of another history attest nothing.
    pub fn attested(&self, anchors: &[Anchor]) -> Vec<Attested> {
        let mut true_heads: Vec<_> = anchors
            .iter()
            .filter(|anchor| self.root_of(anchor.head.size) == Some(anchor.head.root))
            .collect();
        true_heads.sort_by_key(|anchor| anchor.block);
        let announced = (0..).zip(&self.entries).filter(|(_, entry)| matches!(entry, Entry::Announced(_)));
        announced
            .filter_map(|(entry, _)| {
                let first = true_heads.iter().find(|anchor| anchor.head.size > entry)?;
                Some(Attested { entry, block: first.block })
            })
            .collect()
    }

    /// Whether `record`, which was verified, is in the log as it was announced.
    ///
    /// # Errors
    /// A bug: its plan has no JSON form.
    pub fn check_record(&self, record: &AnyRecord) -> Result<Option<Finding>> {
        let digest = record.digest();
        let Some(entry) = self.place(digest) else { return Ok(Some(Finding::NotLogged { record: digest })) };
        let as_announced = match (record, &self.entries[entry as usize]) {
            (AnyRecord::Forfeit(_), Entry::Forfeited(_)) => true,
            (
                AnyRecord::Duel(duel),
                Entry::Ended(Ended { announced, end: End::Recorded { plan, outcome, .. } }),
            ) => {
                let announcement = usize::try_from(*announced).ok().and_then(|place| self.entries.get(place));
                let announces = match announcement {
                    Some(Entry::Announced(announcement)) => announcement.announces(duel.plan())?,
                    _ => false,
                };
                announces && *plan == duel.plan().digest()? && *outcome == duel.verdict().outcome
            }
            _ => false,
        };
        Ok((!as_announced).then_some(Finding::NotAsAnnounced { record: digest, entry }))
    }
}
