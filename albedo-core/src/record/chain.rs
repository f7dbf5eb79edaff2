//! The keyed chain over a journal's lines: whose journal it is.
//!
//! A line ends in its `mac`: HMAC-SHA256, under a key that only this user has, of the
//! line before it and of itself. So a line that somebody else wrote, altered, moved or
//! dropped is found, except for lines dropped from the end, which a crash drops too.
//!
//! A journal that is not this user's can be taken over: the next line's `mac` is then
//! over everything before it, and the chain begins there.

use std::fmt;

use zeroize::Zeroize;

use crate::digest::{Digest, Hasher, hmac};

/// The key of a user's journals: 32 random bytes that nobody else can read.
///
/// ```
/// use albedo_core::record::JournalKey;
///
/// let key = JournalKey::new([7; 32]);
/// assert_ne!(key.tag(b"duel.json"), JournalKey::new([8; 32]).tag(b"duel.json"));
/// assert_eq!(format!("{key:?}"), "JournalKey(..)");
/// ```
#[derive(Clone)]
pub struct JournalKey([u8; 32]);

impl JournalKey {
    /// The key of these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// HMAC-SHA256 of `message` under the key.
    pub fn tag(&self, message: &[u8]) -> Digest {
        hmac(&self.0, message)
    }
}

impl fmt::Debug for JournalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JournalKey(..)")
    }
}

impl Drop for JournalKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Before the hexadecimal digits of a line's mac, in place of its closing brace.
const BEFORE: &[u8] = b",\"mac\":\"";
/// After them.
const AFTER: &[u8] = b"\"}\n";

/// The chain while a journal is read or written.
#[derive(Debug)]
pub(super) struct Chain {
    key: JournalKey,
    /// What the first line is chained to.
    anchor: Digest,
    /// The mac of the line before; none where the chain does not hold.
    last: Option<Digest>,
    /// Of all bytes so far.
    before: Hasher,
    /// Lines read.
    lines: u64,
    /// The first line that does not hold.
    broken: Option<u64>,
}

impl Chain {
    /// The chain of a journal that begins at `anchor`.
    pub(super) fn new(key: JournalKey, anchor: Digest) -> Self {
        Self { key, anchor, last: Some(anchor), before: Hasher::default(), lines: 0, broken: None }
    }

    /// Reads a whole line with its end.
    pub(super) fn read(&mut self, line: &[u8]) {
        self.lines += 1;
        let found = split(line).filter(|(body, mac)| {
            let follows = self.last.is_some_and(|last| self.follows(last, body) == *mac);
            follows || self.adopts(body) == *mac
        });
        self.last = found.map(|(_, mac)| mac);
        match self.last {
            Some(_) => self.broken = None,
            None => self.broken = self.broken.or(Some(self.lines)),
        }
        self.before.update(line);
    }

    /// Whether every line was written under the key, or was there when this user took
    /// the journal over.
    pub(super) fn holds(&self) -> bool {
        self.last.is_some()
    }

    /// The first line that somebody else may have written, from 1.
    pub(super) fn broken(&self) -> Option<u64> {
        self.broken
    }

    /// Writes the mac of `line`, a JSON object, and its end.
    pub(super) fn seal(&mut self, line: &mut Vec<u8>) {
        debug_assert_eq!(line.last(), Some(&b'}'));
        line.pop();
        let mac = match self.last {
            Some(last) => self.follows(last, line),
            None => self.adopts(line),
        };
        line.extend_from_slice(BEFORE);
        line.extend_from_slice(mac.to_string().as_bytes());
        line.extend_from_slice(AFTER);
        self.last = Some(mac);
        self.before.update(line);
    }

    fn follows(&self, last: Digest, body: &[u8]) -> Digest {
        self.key.tag(&[b"line", &last.as_bytes()[..], body].concat())
    }

    fn adopts(&self, body: &[u8]) -> Digest {
        let before = self.before.clone().finish();
        self.key.tag(&[b"adopts", &self.anchor.as_bytes()[..], before.as_bytes(), body].concat())
    }
}

/// A line's object without its closing brace, and its mac.
fn split(line: &[u8]) -> Option<(&[u8], Digest)> {
    let (body, digits) = line.strip_suffix(AFTER)?.split_last_chunk::<64>()?;
    let mac = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some((body.strip_suffix(BEFORE)?, mac))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(key: u8) -> Chain {
        Chain::new(JournalKey::new([key; 32]), Digest::of("duel.json"))
    }

    fn written(chain: &mut Chain, lines: &[&str]) -> Vec<Vec<u8>> {
        let seal = |line: &&str| {
            let mut line = line.as_bytes().to_vec();
            chain.seal(&mut line);
            line
        };
        lines.iter().map(seal).collect()
    }

    fn broken(mut chain: Chain, lines: &[Vec<u8>]) -> Option<u64> {
        for line in lines {
            chain.read(line);
        }
        assert_eq!(chain.holds(), chain.broken().is_none());
        chain.broken()
    }

    #[test]
    fn whatever_is_done_to_a_line_is_found() {
        let lines = written(&mut chain(1), &[r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#]);
        assert_eq!(broken(chain(1), &lines), None);
        assert_eq!(broken(chain(1), &lines[..2]), None, "a crash drops lines from the end");
        assert_eq!(broken(chain(2), &lines), Some(1), "another user's");
        let mut elsewhere = chain(1);
        elsewhere.anchor = Digest::of("another");
        elsewhere.last = Some(elsewhere.anchor);
        assert_eq!(broken(elsewhere, &lines), Some(1), "another configuration's");
        let exchanged = [lines[0].clone(), lines[2].clone(), lines[1].clone()];
        assert_eq!(broken(chain(1), &exchanged), Some(2));
        assert_eq!(broken(chain(1), &[lines[0].clone(), lines[2].clone()]), Some(2));
        assert_eq!(broken(chain(1), &lines[1..]), Some(1));
        for line in 0..3 {
            for at in 0..lines[line].len() {
                let mut altered = lines.clone();
                altered[line][at] ^= 1;
                assert_eq!(broken(chain(1), &altered), Some(line as u64 + 1), "{line} {at}");
            }
        }
        assert_eq!(broken(chain(1), &[b"{\"a\":1}\n".to_vec()]), Some(1), "an older format's");
    }

    #[test]
    fn a_journal_that_was_taken_over_is_whole_from_then_on() {
        let theirs = written(&mut chain(2), &[r#"{"a":1}"#, r#"{"a":2}"#]);
        let mut ours = chain(1);
        for line in &theirs {
            ours.read(line);
        }
        assert!(!ours.holds());
        let lines = [theirs, written(&mut ours, &[r#"{"b":1}"#, r#"{"b":2}"#])].concat();
        assert_eq!(broken(chain(1), &lines), None);
        let mut altered = lines.clone();
        altered[0][5] ^= 1;
        assert!(broken(chain(1), &altered).is_some(), "what was there is under the chain as well");
        assert_eq!(broken(chain(2), &lines), Some(3), "theirs ends where ours begins");
    }
}
