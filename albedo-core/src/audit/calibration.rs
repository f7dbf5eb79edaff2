//! What honest replies score, and what follows for an audit.

use serde::{Deserialize, Serialize};

use super::{Reply, Statistics};
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::rng::{Stream, Use};

/// The chance that an audit of honest replies alarms.
pub const LEVEL: f64 = 1e-3;

/// Version of the calibration's file.
const FORMAT: u32 = 1;

/// Audits that are drawn from the honest replies for the threshold of the mean, which is
/// the largest of them. That is a tenth of its half of [`LEVEL`]: a thousand replies do
/// not know their own distribution better. Measured with an exponential tail: 2.0 of
/// 1,000 honest audits alarm if the exact quantiles are taken, 0.3 by these rules.
const DRAWN: u64 = 20_000;

/// Audits that are drawn from dishonest replies for the power.
const DRAWN_POWER: u64 = 1_000;

/// The share of honest replies that the tail of the worst reply is fitted to.
const TAIL: f64 = 0.05;

/// The lowest thresholds. Two processors block their sums differently, which moves
/// logits in f32 by about 10^-6: honest replies may then score as little as this.
const FLOOR: Thresholds = Thresholds { mean: 1e-5, worst: 1e-3 };

/// What was measured for a pair of devices: the scores of honest replies that one
/// wrote and the other audited, and of dishonest ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Version of this format: 1.
    pub format: u32,
    /// Where replies were written, and in what precision.
    pub generator: String,
    /// Where they were audited, and in what precision.
    pub auditor: String,
    /// Which models and tasks.
    pub about: String,
    /// By how much each logit may have moved.
    pub delta: f64,
    /// The highest score of a token.
    pub clip: f64,
    /// Whether replies were written at temperature 0: scores are gaps of logits then.
    pub greedy: bool,
    /// The honest replies of the half that calibrates.
    pub honest: Vec<Reply>,
    /// Dishonest replies, for what an audit could have found.
    pub alternatives: Vec<Alternative>,
}

/// Dishonest replies of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alternative {
    /// What was done to them.
    pub name: String,
    /// How many replies of an audit it was done to: all of them if none is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replies_per_audit: Option<u32>,
    /// Their scores.
    pub replies: Vec<Reply>,
}

/// What audits of honest replies stay at or below.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Of the mean score per token.
    pub mean: f64,
    /// Of the largest sum of scores of one reply.
    pub worst: f64,
}

impl Thresholds {
    /// Whether an audit alarms.
    pub fn alarm(&self, statistics: Statistics) -> bool {
        statistics.mean > self.mean || statistics.worst > self.worst
    }
}

impl Calibration {
    /// A calibration by these honest replies.
    pub fn new(
        [generator, auditor, about]: [&str; 3],
        greedy: bool,
        [delta, clip]: [f64; 2],
        honest: Vec<Reply>,
    ) -> Self {
        let [generator, auditor, about] = [generator, auditor, about].map(str::to_owned);
        Self {
            format: FORMAT,
            generator,
            auditor,
            about,
            greedy,
            delta,
            clip,
            honest,
            alternatives: Vec::new(),
        }
    }

    /// Reads a calibration from JSON.
    ///
    /// # Errors
    /// The operator's: it is malformed, of another version, or of too few replies.
    pub fn read(json: &[u8]) -> Result<Self> {
        let invalid = |message: String| {
            Error::new(ErrorKind::DataInvalid, "read the audit's calibration", message)
                .with_fault(Fault::Operator)
                .with_hint("make one with the example `audit_calibrate`")
        };
        let calibration: Self = serde_json::from_slice(json).map_err(|error| invalid(error.to_string()))?;
        let Self { format, delta, clip, ref honest, .. } = calibration;
        if format != FORMAT {
            return Err(invalid(format!("its format is {format}, and this build reads {FORMAT}")));
        }
        if !(delta >= 0.0 && delta.is_finite() && clip > 0.0 && clip.is_finite()) {
            return Err(invalid(format!("delta is {delta} and clip {clip}")));
        }
        if honest.len() < 100 || honest.iter().any(|reply| reply.0 == 0) {
            return Err(invalid("it has fewer than 100 honest replies, or one without tokens".into()));
        }
        Ok(calibration)
    }

    /// What audits of `replies` honest replies stay at or below, except for a share of
    /// [`LEVEL`]; each statistic has half of it.
    ///
    /// The mean's is the largest of 20,000 audits drawn with replacement from the honest
    /// replies. The worst reply is beyond what they can show, so that the tail of the
    /// highest of them (a share of 5 %) is continued as an exponential one, two standard
    /// errors above its mean, and the bound of each reply has its part of the level.
    pub fn thresholds(&self, replies: usize) -> Thresholds {
        Thresholds { mean: self.mean_threshold(replies), worst: self.worst_threshold(replies) }
    }

    fn mean_threshold(&self, replies: usize) -> f64 {
        let means = (0..DRAWN).map(|audit| draw(&self.honest, replies, audit).mean);
        means.fold(FLOOR.mean, f64::max)
    }

    fn worst_threshold(&self, replies: usize) -> f64 {
        let mut sums: Vec<f64> = self.honest.iter().map(|reply| reply.1).collect();
        sums.sort_unstable_by(|a, b| b.total_cmp(a));
        let tail = ((sums.len() as f64 * TAIL).ceil() as usize).clamp(1, sums.len());
        let (start, largest) = (sums[tail - 1], sums[0]);
        let excess = sums[..tail].iter().map(|sum| sum - start).sum::<f64>() / tail as f64;
        // Two standard errors above what was measured.
        let excess = excess * (1.0 + 2.0 / (tail as f64).sqrt());
        let chance = tail as f64 / sums.len() as f64;
        let allowed = LEVEL / 2.0 / replies.max(1) as f64;
        largest.max(start + excess * (chance / allowed).ln().max(0.0)).max(FLOOR.worst)
    }

    /// The share of audits of `replies` replies that alarm if the replies are as
    /// `alternative` is.
    pub fn power(&self, alternative: &Alternative, replies: usize, thresholds: &Thresholds) -> f64 {
        if alternative.replies.is_empty() || replies == 0 {
            return 0.0;
        }
        let done = alternative.replies_per_audit.map_or(replies, |done| (done as usize).min(replies));
        let found = (0..DRAWN_POWER).filter(|&audit| {
            let dishonest = sample(&alternative.replies, done, audit);
            // Another stream than that of the dishonest.
            let honest = sample(&self.honest, replies - done, audit + (1 << 32));
            thresholds.alarm(Statistics::of(dishonest.into_iter().chain(honest)))
        });
        found.count() as f64 / DRAWN_POWER as f64
    }
}

/// The statistics of an audit of `count` of `replies`, drawn with replacement.
fn draw(replies: &[Reply], count: usize, audit: u64) -> Statistics {
    Statistics::of(sample(replies, count, audit))
}

fn sample(replies: &[Reply], count: usize, audit: u64) -> Vec<Reply> {
    let mut stream = Stream::new(audit, Use::Bootstrap);
    (0..count).map(|_| replies[stream.below(replies.len() as u64) as usize]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replies of 50 tokens, of which a tenth has a score with an exponential tail.
    fn honest(seed: u64, count: u64) -> Vec<Reply> {
        let mut stream = Stream::new(seed, Use::Bootstrap);
        let mut unit = || (stream.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        (0..count).map(|_| (50, if unit() < 0.1 { -0.01 * (1.0 - unit()).ln() } else { 0.0 })).collect()
    }

    fn calibration() -> Calibration {
        Calibration::new(["one", "other", "a test"], false, [0.1, 0.5], honest(1, 1000))
    }

    #[test]
    fn honest_audits_alarm_as_rarely_as_they_may() {
        let calibration = calibration();
        for replies in [8, 64] {
            let thresholds = calibration.thresholds(replies);
            let audits = honest(2, 4000 * replies as u64);
            let alarms = audits
                .chunks(replies)
                .filter(|audit| thresholds.alarm(Statistics::of(audit.iter().copied())))
                .count();
            // 4 are expected at the level.
            assert!(alarms <= 12, "{alarms} of 4,000 audits of {replies}");
        }
    }

    #[test]
    fn what_differs_is_found_and_more_replies_find_more() {
        let mut calibration = calibration();
        let altered: Vec<_> = honest(3, 200).iter().map(|honest| (50, honest.1 + 0.004)).collect();
        let all = Alternative { name: "all".into(), replies_per_audit: None, replies: altered };
        let one = Alternative { name: "one".into(), replies_per_audit: Some(1), replies: vec![(50, 0.4)] };
        calibration.alternatives = vec![all.clone(), one.clone()];
        let power =
            |of: &Alternative, replies| calibration.power(of, replies, &calibration.thresholds(replies));
        assert!(power(&all, 4) < power(&all, 32) && power(&all, 128) > 0.99);
        assert_eq!([power(&one, 1), power(&one, 64)], [1.0, 1.0]);
        let nothing =
            Alternative { name: "nothing".into(), replies_per_audit: None, replies: honest(4, 1000) };
        assert!(power(&nothing, 64) < 0.02);
    }

    #[test]
    fn a_calibration_reads_what_it_writes_and_refuses_what_it_cannot_use() {
        let calibration = calibration();
        let json = serde_json::to_vec(&calibration).expect("JSON");
        assert_eq!(Calibration::read(&json).expect("reads"), calibration);
        let text = String::from_utf8(json).expect("UTF-8");
        for wrong in [
            text.replace("\"format\":1", "\"format\":2"),
            text.replace("\"clip\":0.5", "\"clip\":0.0"),
            text.replace("[50,", "[0,"),
            "{}".to_owned(),
        ] {
            assert_eq!(
                Calibration::read(wrong.as_bytes()).map_err(|error| error.fault()),
                Err(Fault::Operator)
            );
        }
        let few = Calibration { honest: honest(1, 99), ..calibration };
        assert!(Calibration::read(&serde_json::to_vec(&few).expect("JSON")).is_err());
    }

    #[test]
    fn replies_that_never_score_leave_hardly_any_room() {
        let exact = Calibration { honest: vec![(50, 0.0); 500], ..calibration() };
        assert_eq!(exact.thresholds(64), FLOOR);
    }
}
