//! Who hands in what, and when; which parts go away. All of it follows from one seed, before the
//! validator starts, and is written to the disk for the check afterwards.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use albedo::rng::{Stream, Use};
use serde::{Deserialize, Serialize};

use crate::BLOCK;
use crate::scripted::{PARTS, model_files, sums};

const DAY: u64 = 24 * 3600;

/// Miners with one hotkey each.
const MINERS: u64 = 60;

/// Hotkeys of one owner.
const RING: usize = 3;

/// Blocks until a hidden commitment can be read, at most.
const HIDDEN: u64 = 20;

/// What is done with a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// A model of its own, there when it is committed to.
    Honest,
    /// A model of its own whose files come hours after the commitment, in time.
    Late,
    /// Files that never come.
    Never,
    /// Files that come after somebody else has registered in its miner's slot.
    Gone,
    /// Files that come after its miner has exchanged the hotkey.
    Exchanged,
    /// A model of its own with a program beside it.
    Code,
    /// A model of its own whose weights end too early.
    Cut,
    /// Another miner's commitment, or its digest in another repository.
    Copy,
    /// Another miner's files under another digest; also those of a ring of hotkeys.
    Disguised,
    /// One's own earlier files under another digest.
    Recommitted,
    /// One's own earlier commitment, word for word.
    Again,
}

/// One submission.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) hotkey: String,
    /// The commitment.
    pub(crate) text: String,
    pub(crate) skill: f64,
    /// Seconds from the start to the commitment.
    pub(crate) committed: u64,
    /// Blocks for which nobody can read it.
    pub(crate) hidden: Option<u64>,
    /// Seconds from the start until its files are there, if it brings any.
    pub(crate) uploaded: Option<u64>,
    /// Seconds from the start until its hotkey is gone, if it comes to that.
    pub(crate) leaves: Option<u64>,
    repository: String,
    /// Whose weights it has.
    number: u64,
    reversed: bool,
}

impl Entry {
    /// Its files, by name.
    pub(crate) fn files(&self) -> BTreeMap<&'static str, Vec<u8>> {
        let mut files = model_files(self.skill, self.number);
        match self.kind {
            Kind::Code => drop(files.insert("modeling.py", b"print('hello')\n".to_vec())),
            Kind::Cut => {
                let weights = files.get_mut("model.safetensors").expect("it has weights");
                weights.truncate(weights.len() - 2);
            }
            _ => {}
        }
        files
    }

    /// Puts its files into the mirror in `dir`.
    pub(crate) fn upload(&self, dir: &Path) {
        let files = self.files();
        let sums = sums(&files, self.reversed);
        crate::scripted::upload(dir, &self.repository, &files, &sums);
    }

    /// Under what name and order of its files the same model is committed to.
    fn retold(&mut self, repository: String, reversed: bool) {
        (self.repository, self.reversed) = (repository, reversed);
        let (_, pin) = sums(&self.files(), reversed);
        self.text = format!("v7|{}|sha256:{pin}", self.repository);
    }
}

/// An outage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outage {
    pub(crate) part: usize,
    /// Seconds from the start.
    pub(crate) from: u64,
    pub(crate) secs: u64,
    /// Calls that the part still answers, so that it goes away in the middle of a duel.
    pub(crate) calls: u64,
}

impl Outage {
    pub(crate) fn part(&self) -> &'static str {
        PARTS[self.part]
    }
}

/// Everything that happens.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Script {
    pub(crate) days: u64,
    pub(crate) miners: Vec<(String, String)>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) outages: Vec<Outage>,
}

/// What the script knows while it is written.
struct Author {
    stream: Stream,
    entries: Vec<Entry>,
    /// When each hotkey committed last, or will have been read, in seconds.
    busy: BTreeMap<String, u64>,
    /// The strength of the last model that was made to be crowned.
    king: f64,
    now: u64,
}

impl Script {
    /// The script of `submissions` in `days`.
    pub(crate) fn write(seed: u64, days: u64, submissions: usize) -> Self {
        let miners = (0..MINERS).map(|number| (format!("miner-{number}"), format!("owner-{number}")));
        let ring = (0..RING).map(|number| (format!("ring-{number}"), "ring".to_owned()));
        let mut author = Author {
            stream: Stream::new(seed, Use::Chaos),
            entries: Vec::new(),
            busy: BTreeMap::new(),
            king: 0.0,
            now: 0,
        };
        let mean = (days * DAY) as f64 / submissions as f64;
        let mut attacks = 0;
        while author.entries.len() < submissions {
            let gap = -(1.0 - author.unit()).ln() * mean;
            author.now = (author.now + 1 + gap as u64).min(days * DAY - 1);
            if author.entries.len() % 12 == 11 {
                author.attack(attacks);
                attacks += 1;
            } else {
                author.honest();
            }
        }
        let outages = author.outages(days);
        let gone = author.entries.iter().filter(|entry| entry.leaves.is_some());
        let gone = gone.map(|entry| (entry.hotkey.clone(), format!("owner of {}", entry.hotkey)));
        let miners = miners.chain(ring).chain(gone).collect();
        Self { days, miners, entries: author.entries, outages }
    }
}

impl Author {
    fn unit(&mut self) -> f64 {
        (self.stream.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A miner who has committed to nothing within the last blocks, and is not `other`.
    fn miner(&mut self, other: &str) -> String {
        loop {
            let hotkey = format!("miner-{}", self.stream.below(MINERS));
            if hotkey != other && self.is_free(&hotkey) {
                return hotkey;
            }
        }
    }

    /// The chain shows one commitment per hotkey: the last one has been read by now.
    fn is_free(&self, hotkey: &str) -> bool {
        self.busy.get(hotkey).is_none_or(|until| *until < self.now)
    }

    fn commit(&mut self, entry: Entry) {
        let blocks = 3 + entry.hidden.unwrap_or(0);
        self.busy.insert(entry.hotkey.clone(), self.now + blocks * BLOCK.as_secs());
        self.entries.push(entry);
    }

    /// A model of its own.
    fn entry(&mut self, kind: Kind, hotkey: String, skill: f64) -> Entry {
        let number = self.entries.len() as u64 + 1;
        let mut entry = Entry {
            kind,
            hotkey,
            text: String::new(),
            skill,
            committed: self.now,
            hidden: None,
            uploaded: Some(self.now),
            leaves: None,
            repository: String::new(),
            number,
            reversed: false,
        };
        entry.retold(format!("models/of-{number}"), false);
        entry
    }

    /// The strength of a model that enters: sometimes that of the next king.
    fn skill(&mut self) -> f64 {
        if self.stream.below(50) == 0 {
            self.king += 1.0;
            return self.king;
        }
        self.lesser()
    }

    /// A strength below that of the last model that was made to be crowned. Where an outage keeps
    /// that one from its duel for long, a lesser model may be crowned before.
    fn lesser(&mut self) -> f64 {
        self.king - 0.5 - self.stream.below(3) as f64 + 0.1 * (2.0 * self.unit() - 1.0)
    }

    fn honest(&mut self) {
        let (hotkey, skill) = (self.miner(""), self.skill());
        let mut entry = self.entry(Kind::Honest, hotkey, skill);
        if self.stream.below(10) == 0 {
            entry.hidden = Some(1 + self.stream.below(HIDDEN));
        }
        self.commit(entry);
    }

    /// An honest submission that was readable a day ago, and whose miner is free.
    fn victim(&mut self) -> Option<Entry> {
        let is_old = |entry: &&Entry| {
            entry.kind == Kind::Honest && entry.hidden.is_none() && entry.committed + DAY < self.now
        };
        let old: Vec<_> = self.entries.iter().rev().filter(is_old).take(200).cloned().collect();
        for _ in 0..100 {
            let victim = old.get(self.stream.below(old.len() as u64) as usize)?;
            if self.is_free(&victim.hotkey) {
                return Some(victim.clone());
            }
        }
        None
    }

    /// The attacks, one after the other.
    fn attack(&mut self, number: u64) {
        let victim = self.victim();
        let (kind, victim) = match (number % 11, victim) {
            (0, Some(victim)) => (Kind::Copy, victim),
            (1, Some(victim)) => (Kind::Disguised, victim),
            (2, Some(victim)) => (Kind::Recommitted, victim),
            (3, Some(victim)) => (Kind::Again, victim),
            (4, _) if (0..RING).all(|of| self.is_free(&format!("ring-{of}"))) => return self.ring(),
            (5, _) => return self.own(Kind::Never),
            (6, _) => return self.own(Kind::Late),
            (7, _) => return self.own(Kind::Cut),
            (8, _) => return self.own(Kind::Gone),
            (9, _) => return self.own(Kind::Exchanged),
            _ => return self.own(Kind::Code),
        };
        let (repository, order) = (victim.repository.clone(), victim.reversed);
        // A model has two orders of its files: where both were handed in, another one is a plain copy.
        let has_both = |entry: &Entry| entry.number == victim.number && entry.reversed != order;
        let kind =
            if kind == Kind::Disguised && self.entries.iter().any(has_both) { Kind::Copy } else { kind };
        let hotkey = match kind {
            Kind::Copy | Kind::Disguised => self.miner(&victim.hotkey),
            _ => victim.hotkey.clone(),
        };
        let number = self.entries.len();
        let mut entry = Entry { kind, hotkey, committed: self.now, uploaded: None, ..victim };
        if matches!(kind, Kind::Disguised | Kind::Recommitted) {
            entry.retold(format!("{repository}-{number}"), !order);
            entry.uploaded = Some(self.now);
        }
        self.commit(entry);
    }

    fn own(&mut self, kind: Kind) {
        let hotkey = match kind {
            Kind::Gone | Kind::Exchanged => format!("leaving-{}", self.entries.len()),
            _ => self.miner(""),
        };
        // The others never duel.
        let skill = if kind == Kind::Late { self.skill() } else { self.lesser() };
        let mut entry = self.entry(kind, hotkey, skill);
        let late = self.now + (20 + self.stream.below(100)) * BLOCK.as_secs();
        match kind {
            Kind::Never => entry.uploaded = None,
            Kind::Late => entry.uploaded = Some(late),
            Kind::Gone | Kind::Exchanged => {
                (entry.uploaded, entry.leaves) = (Some(late), Some(late - 10 * BLOCK.as_secs()));
            }
            _ => {}
        }
        self.commit(entry);
    }

    /// A ring of hotkeys commits to one model in one block: the first place has it.
    fn ring(&mut self) {
        let skill = self.skill();
        let first = self.entry(Kind::Honest, "ring-0".into(), skill);
        let repository = first.repository.clone();
        self.commit(first.clone());
        for of in 1..RING {
            let hotkey = format!("ring-{of}");
            // There are two orders of its files: the third has the digest of the first.
            let kind = if of == 1 { Kind::Disguised } else { Kind::Copy };
            let mut entry = Entry { kind, hotkey, ..first.clone() };
            entry.retold(format!("{repository}-{of}"), of == 1);
            self.commit(entry);
        }
    }

    /// Two outages in three days, of five minutes to six hours, one after the other.
    fn outages(&mut self, days: u64) -> Vec<Outage> {
        let mut outages = Vec::new();
        let mut from = DAY / 2;
        while from < days * DAY {
            let part = self.stream.below(PARTS.len() as u64) as usize;
            // Most are short.
            let secs = Duration::from_mins(5).as_secs_f64() * 72.0_f64.powf(self.unit());
            outages.push(Outage { part, from, secs: secs as u64, calls: self.stream.below(300) });
            from += secs as u64 + DAY / 4 + self.stream.below(2 * DAY);
        }
        outages
    }
}

#[test]
fn a_script_follows_from_its_seed_and_has_every_kind() {
    let script = Script::write(7, 20, 400);
    let written = |script: &Script| serde_json::to_string(script).expect("JSON");
    assert_eq!(written(&script), written(&Script::write(7, 20, 400)));
    assert_ne!(written(&script), written(&Script::write(8, 20, 400)));
    let mut kinds: BTreeMap<Kind, usize> = BTreeMap::new();
    for entry in &script.entries {
        *kinds.entry(entry.kind).or_default() += 1;
    }
    assert_eq!(kinds.len(), 11, "{kinds:?}");
    assert!(script.outages.iter().all(|outage| (300..6 * 3600).contains(&outage.secs)));
}
