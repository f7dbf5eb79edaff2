//! What the words of a verdict mean, beside the numbers of this one.

use super::Look;
use super::table::{counted, times};
use crate::Verdict;
use crate::decision::Evidence;

/// The words that [`explain`] explains, each with a section of its own in
/// `docs/read-a-verdict.md`.
#[cfg(test)]
const WORDS: [&str; 9] = [
    "score",
    "margin",
    "interval",
    "evidence",
    "shrunken estimate",
    "order flips",
    "missing",
    "drift",
    "twins and delta",
];

/// What the words of a verdict mean, with the numbers of this one: one entry per word.
pub fn explain(verdict: &Verdict, look: Look) -> String {
    let mut text = String::from("\n") + &look.paragraph(&look.strong("What the words mean"));
    for (word, meaning) in meanings(verdict) {
        text += &look.hanging(word, 20, &meaning);
    }
    text += &look.paragraph("More: docs/read-a-verdict.md");
    text
}

/// Every word with what it means here.
fn meanings(verdict: &Verdict) -> Vec<(&'static str, String)> {
    let mut meanings = vec![
        (
            "score",
            "What a judge gives the two sides of a pair of replies, together 100 points. Every pair is judged \
             twice, with each reply shown first once, and the two answers are averaged: 50 to 50 is a tie."
                .into(),
        ),
        (
            "margin",
            format!(
                "The challenger's score minus the king's, {:+.2} points here: the mean over {}, and within each \
                 the panel's {}. From −100 to +100.",
                verdict.margin,
                counted(verdict.samples, "sample", "samples"),
                counted(verdict.judges.len() as u32, "judge", "judges"),
            ),
        ),
    ];
    if let Some(interval) = verdict.interval() {
        let (low, high) = (interval.low, interval.high);
        let kind = match verdict.decision.evidence {
            Evidence::Sequential(_) | Evidence::Fixed(_) => {
                "Intervals made this way hold the true margin in at least 95 of 100 duels, also of duels that stop as \
                 soon as they can. That costs width: an interval for a fixed number of samples would be narrower."
            }
            _ => {
                "Intervals made this way hold the true margin in about 95 of 100 duels, for a number of samples \
                 that was fixed beforehand; for fewer than 50 samples, in somewhat fewer."
            }
        };
        meanings.push((
            "interval",
            format!(
                "Other samples would have given another margin. The margin over all tasks lies plausibly between \
                 {low:+.2} and {high:+.2} points. {kind}"
            ),
        ));
    }
    meanings.extend(evidence(&verdict.decision.evidence));
    meanings.push((
        "order flips",
        "How often a judge prefers one side with one reply shown first and the other side with the other shown \
         first. It then goes by the place more than by the reply. Flips move no margin, but a judge with many of \
         them tells little."
            .into(),
    ));
    if verdict.cells > 0 {
        meanings.push((
            "missing",
            "A cell is one judge's word on one sample, from both orders. It is missing if the judge gave none that \
             can be read. It counts as a tie, and a crown has to hold also if all missing cells were wins of the \
             king."
                .into(),
        ));
    }
    if verdict.drift.is_some() {
        meanings.push((
            "drift",
            "The margin of the first half of the samples against that of the second. Beyond about 3 standard errors \
             something has changed during the duel, for example a provider's model."
                .into(),
        ));
    }
    if verdict.twins.is_some() {
        meanings.push((
            "twins and delta",
            "A judge compares some replies with their twins: the same action, with nonce words where its outcome needs no \
             others. They should tie. A reply that wins talks to the judge, and its twin is judged instead. The delta is \
             how much more the challenger's replies win against their twins than the king's, over samples that the seed \
             drew. It decides nothing."
                .into(),
        ));
    }
    meanings
}

fn evidence(evidence: &Evidence) -> Vec<(&'static str, String)> {
    let (log, alpha, shrunken) = match evidence {
        Evidence::Sequential(evidence) => (evidence.log_e_value, evidence.alpha, evidence.shrunken),
        Evidence::Fixed(evidence) => (evidence.log_e_value, evidence.alpha, None),
        _ => return Vec::new(),
    };
    let mut meanings = vec![(
        "evidence",
        format!(
            "Imagine a bet, sample by sample, that the challenger is better, at odds that would be fair if it were \
             not. Its stake has become {} here. A challenger that is not better gets to {} with a chance of at most \
             {:.2} %, whenever one looks: that much is asked for. The second number asks the same about a lead of \
             some size.",
            times(log),
            times(-alpha.ln()),
            100.0 * alpha
        ),
    )];
    if let Some(points) = shrunken {
        meanings.push((
            "shrunken estimate",
            format!(
                "A winner's margin flatters it: it won partly by luck. Taking into account how far the models of \
                 this reign really differ, {points:+.2} points is what to expect on new tasks."
            ),
        ));
    }
    meanings
}

#[cfg(test)]
mod tests {
    use super::WORDS;

    #[test]
    fn the_guide_has_a_section_for_every_word() {
        let guide = include_str!("../../docs/read-a-verdict.md").to_lowercase();
        for word in WORDS {
            assert!(guide.contains(&format!("\n## {word}")), "{word}");
        }
    }
}
