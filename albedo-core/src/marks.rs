//! What distinguishes one judgement from all others without naming the sides.
//!
//! A judge that reads replies can be shown text that looks like its own answer.
//! Its real answer therefore carries a *nonce*, and the texts that it is shown
//! stand between lines that hold a *fence*: both are keyed hashes that no
//! contestant can know. The key is the duel's secret, which follows from the
//! plan's seed: a record can be reproduced, and a stranger can check it. Where
//! the seed is known before the contestants' bytes are held (an offline duel
//! with `seed = 0`), so are nonces and fences.
//!
//! A nonce stops an answer that was quoted from a reply. It does not stop a
//! judge that obeys a reply and answers, nonce and all, what it was told.

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, hmac};
use crate::error::{Result, Side};
use crate::identity::Identity;
use crate::order::Order;
use crate::seed::Seed;

/// Domain of the duel's secret: another use of the seed has another name.
const SECRET: &[u8] = b"albedo judgement secret 1";

/// What a judge is given with a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Of this judge, this sample and this order alone: nothing tells a judge which
    /// two questions are about one sample, or which of them came first.
    pub fence: Digest,
    /// Of this judge, this order and this answer alone.
    pub nonce: Digest,
}

/// Marks of no duel, for a question that is asked outside of one.
impl Default for Marks {
    fn default() -> Self {
        Self { fence: Digest::of("fence"), nonce: Digest::of("nonce") }
    }
}

impl Marks {
    /// The fence in a prompt: 12 hexadecimal digits.
    pub fn fence_text(&self) -> String {
        self.fence.short()
    }

    /// The nonce in a prompt and an answer: 12 hexadecimal digits. A reply has
    /// one guess of 2⁴⁸ at it.
    pub fn nonce_text(&self) -> String {
        self.nonce.short()
    }
}

/// Names one judgement: the answer that is journalled under it is the only one.
#[derive(Debug, Clone, Copy)]
pub struct JudgementKey<'a> {
    /// The plan's digest.
    pub plan: Digest,
    /// What is asked.
    pub question: Question,
    /// The judge; its configuration's digest covers rubric and prompt.
    pub judge: &'a Identity,
    /// Which reply it sees first.
    pub order: Order,
}

/// What a judge is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Question {
    /// The pair of the sample at this place in plan order.
    Sample(u32),
    /// The canary of this number; one of the preflight under its key in place of
    /// the plan's digest. Its better reply stands for the king's.
    Canary(u32),
    /// Neutral text in the conversation of the sample at this place
    /// ([`crate::missing`]). The side's reply stands for the king's, or the neutral
    /// text does.
    Probe(u32, Probe),
    /// A side's reply to the sample at this place, beside its own twin ([`crate::twin`]). The reply stands in the
    /// king's place, also where it is the challenger's.
    Twin(u32, Side),
}

/// What a judge is asked about that has given no score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Probe {
    /// Neutral text beside itself.
    Neutral,
    /// The king's reply beside neutral text.
    King,
    /// The challenger's reply beside neutral text.
    Challenger,
}

impl Question {
    /// 0 for a sample, 1 for a canary, 2, 3 or 4 for a probe of neutral text, the
    /// king's or the challenger's reply, 5 or 6 for the king's or the challenger's reply beside its twin; and the number
    /// (little-endian).
    fn bytes(self) -> [u8; 5] {
        let (kind, number) = match self {
            Self::Sample(sample) => (0, sample),
            Self::Canary(canary) => (1, canary),
            Self::Probe(sample, Probe::Neutral) => (2, sample),
            Self::Probe(sample, Probe::King) => (3, sample),
            Self::Probe(sample, Probe::Challenger) => (4, sample),
            Self::Twin(sample, Side::King) => (5, sample),
            Self::Twin(sample, Side::Challenger) => (6, sample),
        };
        let [a, b, c, d] = number.to_le_bytes();
        [kind, a, b, c, d]
    }
}

impl JudgementKey<'_> {
    /// Plan digest, question ([`Question`]), digest of the judge's identity, and
    /// 0 for the king first or 1 for the challenger first.
    fn bytes(&self) -> Result<Vec<u8>> {
        let order = match self.order {
            Order::KingFirst => 0,
            Order::ChallengerFirst => 1,
        };
        let mut bytes = asked_of(self.plan, self.question, self.judge)?;
        bytes.push(order);
        Ok(bytes)
    }
}

/// Plan digest, question and digest of the judge's identity.
fn asked_of(plan: Digest, question: Question, judge: &Identity) -> Result<Vec<u8>> {
    let judge = Digest::of_json(judge)?;
    Ok([&plan.as_bytes()[..], &question.bytes(), judge.as_bytes()].concat())
}

/// The key of a duel's nonces and fences: HMAC-SHA256 of a fixed text under the
/// plan's seed.
#[derive(Debug, Clone, Copy)]
pub struct DuelSecret(Digest);

impl DuelSecret {
    /// The secret of a duel with `seed`.
    pub fn new(seed: &Seed) -> Self {
        Self(hmac(seed.as_bytes(), SECRET))
    }

    /// The marks of answer `asked` (from 1) to the question `key`: its fence is
    /// HMAC-SHA256 of `fence` and the key's bytes, its nonce that of `nonce`, the
    /// key's bytes and `asked` (little-endian).
    pub fn marks(&self, key: &JudgementKey<'_>, asked: u32) -> Result<Marks> {
        let key = key.bytes()?;
        Ok(Marks {
            fence: self.keyed(b"fence", &key),
            nonce: self.keyed(b"nonce", &[&key[..], &asked.to_le_bytes()].concat()),
        })
    }

    /// The fence of what `judge` writes before it sees the replies: HMAC-SHA256 of
    /// `preparation`, the plan's digest, the question's bytes and the digest of the
    /// judge's identity.
    pub fn preparation_fence(&self, plan: Digest, question: Question, judge: &Identity) -> Result<Digest> {
        Ok(self.keyed(b"preparation", &asked_of(plan, question, judge)?))
    }

    /// Which order `judge` is asked first about `question`: that of the king first if
    /// the lowest bit of the first byte of HMAC-SHA256 of `first`, the plan's digest,
    /// the question's bytes and the digest of the judge's identity is 0. A judge that
    /// counts its questions learns nothing from it.
    pub fn asked_first(&self, plan: Digest, question: Question, judge: &Identity) -> Result<Order> {
        let drawn = self.keyed(b"first", &asked_of(plan, question, judge)?);
        Ok(if drawn.as_bytes()[0] & 1 == 0 { Order::KingFirst } else { Order::ChallengerFirst })
    }

    fn keyed(&self, domain: &[u8], message: &[u8]) -> Digest {
        hmac(self.0.as_bytes(), &[domain, message].concat())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_judgement_has_a_nonce_of_its_own_and_every_question_a_fence() {
        let judges = ["a", "b"].map(|name| Identity::new(name, "1", &()).expect("an identity"));
        let (mut nonces, mut fences, mut all) = (BTreeSet::new(), BTreeSet::new(), 0);
        for seed in [0, 1] {
            let secret = DuelSecret::new(&Seed::from(seed));
            for plan in [Digest::of("p"), Digest::of("q")] {
                for sample in 0..3 {
                    let question = if sample == 2 { Question::Canary(0) } else { Question::Sample(sample) };
                    for judge in &judges {
                        for order in Order::BOTH {
                            for asked in [1, 2] {
                                let key = JudgementKey { plan, question, judge, order };
                                let marks = secret.marks(&key, asked).expect("marks");
                                nonces.insert(marks.nonce_text());
                                fences.insert(marks.fence_text());
                                all += 1;
                            }
                        }
                    }
                }
            }
        }
        assert_eq!((nonces.len(), fences.len()), (all, all / 2), "answers to one question share its fence");
        assert!(nonces.is_disjoint(&fences));
    }

    #[test]
    fn either_order_is_asked_first_half_of_the_time_whatever_the_judge() {
        let secret = DuelSecret::new(&Seed::from(3));
        let judges = ["a", "b"].map(|name| Identity::new(name, "1", &()).expect("an identity"));
        let first = |judge, sample| {
            secret.asked_first(Digest::of("p"), Question::Sample(sample), judge).expect("an order")
        };
        let king: Vec<_> = (0..4_000)
            .map(|sample| judges.each_ref().map(|judge| first(judge, sample) == Order::KingFirst))
            .collect();
        for judge in [0, 1] {
            let count = king.iter().filter(|first| first[judge]).count();
            assert!(count.abs_diff(2_000) < 95, "{count} of 4000 is beyond three standard errors");
        }
        let same = king.iter().filter(|[one, other]| one == other).count();
        assert!(same.abs_diff(2_000) < 95, "{same} of 4000");
    }

    #[test]
    fn marks_are_what_the_record_format_says() {
        let secret = DuelSecret::new(&Seed::from(7));
        let judge = Identity::new("chat", "1", &()).expect("an identity");
        let key = JudgementKey {
            plan: Digest::of("plan"),
            question: Question::Sample(3),
            judge: &judge,
            order: Order::ChallengerFirst,
        };
        let marks = secret.marks(&key, 2).expect("marks");
        // Worked out with Python's `hmac` from the bytes that the format names.
        assert_eq!(marks.fence_text(), "66d6b87f0869");
        assert_eq!(marks.nonce_text(), "6b84ca4376db");
        let fence = secret.preparation_fence(key.plan, key.question, &judge).expect("a fence");
        assert_eq!(fence.short(), "cdb98e139f98");
        let first = secret.asked_first(key.plan, key.question, &judge).expect("an order");
        assert_eq!(first, Order::KingFirst, "the first byte is f4");
    }
}
