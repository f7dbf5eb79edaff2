//! Whether a submission was rejected for its likeness to the king alone.

use serde_json::Value;

use crate::{Admission, Finding};

/// What the screens call the king.
const KING: &str = "the king";

/// Rules of the screens `lineage` and `functional` that reject a submission. The evidence lists
/// rules that only flag it too.
const REJECTING: [&str; 5] = ["copied", "nothing-differs", "numbers", "same", "shared"];

/// Whether likeness to the king is all that the screens have rejected a submission for. A finding
/// of any other screen is something else.
pub(super) fn is_like_the_king_alone(admission: &Admission) -> bool {
    let mut rejected = admission.findings.iter().filter_map(|screened| match &screened.finding {
        Finding::Rejected(evidence) => Some(evidence),
        _ => None,
    });
    rejected.next().is_some_and(names_the_king_alone) && rejected.all(names_the_king_alone)
}

fn names_the_king_alone(evidence: &Value) -> bool {
    // The screen `digest`.
    if let Some(of) = evidence["copy_of"].as_str() {
        return of == KING;
    }
    // The screen `fingerprint-v2`, where it may reject.
    if let Some(threshold) = evidence["threshold"].as_f64() {
        let nearest = evidence["nearest"].as_array().into_iter().flatten();
        let is_alike = |near: &&Value| near["similarity"].as_f64().is_some_and(|found| found >= threshold);
        let mut alike = nearest.filter(is_alike).peekable();
        return alike.peek().is_some() && alike.all(|near| near["of"] == KING);
    }
    let mut against = texts(evidence, "rules")
        .zip(texts(evidence, "reasons"))
        .filter(|(rule, _)| REJECTING.contains(rule))
        .peekable();
    let of_the_king = |(rule, reason): (&str, &str)| match rule {
        "same" => true,
        "nothing-differs" => reason == "nothing differs from the king",
        _ => false,
    };
    against.peek().is_some() && against.all(of_the_king)
}

fn texts<'a>(evidence: &'a Value, key: &'static str) -> impl Iterator<Item = &'a str> {
    let texts = evidence[key].as_array().into_iter().flatten();
    texts.map(|text| text.as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validator::parts::testing::admission;

    fn is_it(rejected: &[Value]) -> bool {
        let rejected = rejected.iter().cloned().map(Finding::Rejected);
        let flagged = Finding::Flagged(json!({ "rules": ["alike"], "reasons": ["its answers resemble"] }));
        is_like_the_king_alone(&admission(rejected.chain([flagged])))
    }

    #[test]
    fn a_rejection_for_likeness_to_the_king_is_told_from_every_other_one() {
        let digest = |of: &str| json!({ "copy_of": of, "rules": ["copy"] });
        let reasons = |rules: &[&str], reasons: &[&str]| json!({ "rules": rules, "reasons": reasons });
        let print = |of: &str| {
            let near = |of: &str, similarity: f64| json!({ "of": of, "similarity": similarity });
            json!({ "threshold": 0.95, "nearest": [near(of, 0.99), near("bob b/model", 0.2)] })
        };
        let nothing = reasons(&["nothing-differs", "rearranged"], &["nothing differs from the king", "rows"]);
        let same = reasons(&["same"], &["it answers like the king: 1e-9 nats per token"]);
        assert!(is_it(&[digest("the king"), nothing.clone(), same, print("the king")]));
        for other in [
            digest("ann a/model"),
            print("ann a/model"),
            reasons(&["nothing-differs"], &["nothing differs from ann a/model"]),
            reasons(&["nothing-differs", "shared"], &["nothing differs from the king", "7 matrices"]),
            reasons(&["numbers"], &["a weight is not finite"]),
            reasons(
                &["same", "copied"],
                &["it answers like the king", "its answers differ as those of ann do"],
            ),
            json!({ "problems": [] }),
        ] {
            assert!(!is_it(&[nothing.clone(), other.clone()]), "{other}");
        }
        assert!(!is_it(&[]), "it was not rejected");
    }
}
