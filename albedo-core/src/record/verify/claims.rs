//! What is known of each part of a record, and how: the honest summary of a
//! verification.

use super::{AskedAgain, Claim, Known, Prompts, Verification};
use crate::record::Regenerated;

/// The part of a record that generating replies again is about.
const REPLIES: &str = "replies, log-probabilities";

/// What `verification` shows, and what it cannot; `expected` if the record has the
/// digest that the caller expected.
pub(super) fn of(verification: &Verification, expected: bool) -> Vec<Claim> {
    let claim = |part: &str, known, by: String| Claim { part: part.into(), known, by };
    let Verification { draws, samples, plan, .. } = verification;
    let mut claims = vec![
        claim("bytes, form and order", Known::Recomputed, "digests of both files, every line".into()),
        claim("which rows were drawn", Known::Recomputed, format!("{draws} row draws from the seed")),
        claim(
            "panel, rule and verdict",
            Known::Recomputed,
            format!("{samples} samples by the rule `{}`", plan.rule.name()),
        ),
    ];
    claims.push(if verification.tasks {
        claim("facts of the draw, conversations", Known::Recomputed, "compared with the tasks".into())
    } else {
        claim("facts of the draw, conversations", Known::Asserted, "needs the tasks".into())
    });
    claims.push(match verification.prompts {
        Some(Prompts { measured, counted }) if measured == counted => {
            claim("lengths of prompts", Known::Recomputed, format!("{counted} counted again"))
        }
        Some(Prompts { measured, counted }) => claim(
            "lengths of prompts",
            Known::Asserted,
            format!("{counted} of {measured} counted again, the others need the tasks"),
        ),
        None => claim("lengths of prompts", Known::Asserted, "needs the king's tokenizer".into()),
    });
    for (place, judge) in plan.judges.iter().enumerate() {
        let part = format!("answers of {}", judge.identity.name);
        claims.push(match verification.asked_again.get(place) {
            Some(AskedAgain::Same { answers }) => {
                claim(&part, Known::Recomputed, format!("{answers} asked again, all the same"))
            }
            Some(AskedAgain::Otherwise { differing, answers }) => claim(
                &part,
                Known::Asserted,
                format!("{differing} of {answers} differ in this build, which behaves otherwise"),
            ),
            Some(AskedAgain::NotAsked(why)) => claim(&part, Known::Asserted, (*why).into()),
            None => claim(&part, Known::Asserted, "not asked again".into()),
        });
    }
    claims.push(claim(REPLIES, Known::Asserted, "need the models".into()));
    claims.push(match verification.origin.builds.len() {
        0 => claim("build", Known::NotCovered, "the format does not say".into()),
        1 => claim("build", Known::Asserted, "see above".into()),
        builds => claim("build", Known::Asserted, format!("{builds} builds, see above")),
    });
    if verification.origin.unchained {
        let by = "a run went on from a journal that no key vouched for";
        claims.push(claim("journal", Known::NotCovered, by.into()));
    }
    claims.push(if expected {
        claim("which record was published", Known::Attested, "it has the expected digest".into())
    } else {
        claim("which record was published", Known::NotCovered, "compare its digest".into())
    });
    let by = "a plan that was run again until it pleased leaves no trace in its record";
    claims.push(claim("other runs of the plan", Known::NotCovered, by.into()));
    claims
}

/// Says in `claims` what generating `again` some of the record's `replies` showed.
pub(super) fn add_regenerated(claims: &mut Vec<Claim>, replies: usize, again: &[Regenerated]) {
    let Some(place) = claims.iter().position(|claim| claim.part == REPLIES) else { return };
    let (count, left) = (again.len(), replies.saturating_sub(again.len()));
    let differing = again.iter().filter(|reply| reply.difference.is_some()).count();
    let claim = |part: String, known, by: String| Claim { part, known, by };
    let mut shown = vec![if differing > 0 {
        let by = format!("{differing} of {count} generated again are not reproduced");
        claim(REPLIES.into(), Known::Asserted, by)
    } else {
        let part = format!("{count} of {replies} replies, log-probabilities");
        claim(part, Known::Recomputed, "generated again, all the same".into())
    }];
    if differing == 0 && left > 0 {
        shown.push(claim(format!("the other {left} replies"), Known::Asserted, "not generated again".into()));
    }
    claims.splice(place..=place, shown);
}
