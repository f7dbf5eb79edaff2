//! What is known of each part of a record, and how: the honest summary of a
//! verification.

use super::{AskedAgain, Claim, Known, Prompts, Verification};

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
    claims.push(claim("replies, log-probabilities", Known::Asserted, "need the models".into()));
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
