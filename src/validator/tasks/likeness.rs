//! Whether a submission was rejected for its likeness to the king alone.

use crate::judges::screens;
use crate::{Admission, Finding};

/// Whether likeness to the king is all that the screens have rejected a submission for. A finding
/// of any other screen is something else.
pub(super) fn is_like_the_king_alone(admission: &Admission) -> bool {
    let findings = admission.findings.iter().map(|screened| &screened.finding);
    let mut rejected = findings.filter(|finding| matches!(finding, Finding::Rejected(_))).peekable();
    rejected.peek().is_some() && rejected.all(screens::is_like_the_king_alone)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::validator::parts::testing::admission;

    fn is_it(rejected: &[Value]) -> bool {
        let rejected = rejected.iter().cloned().map(Finding::Rejected);
        let flagged = Finding::Flagged(json!({ "rules": ["alike"], "reasons": ["its answers resemble"] }));
        is_like_the_king_alone(&admission(rejected.chain([flagged])))
    }

    #[test]
    fn a_rejection_for_likeness_to_the_king_is_told_from_every_other_one() {
        let king = json!({ "rejected_for": ["the king"], "rules": ["nothing-differs", "rearranged"] });
        assert!(is_it(&[json!({ "copy_of": "the king", "rejected_for": ["the king"] }), king.clone()]));
        for other in [
            json!({ "copy_of": "ann a/model", "rejected_for": ["ann a/model"] }),
            json!({ "rejected_for": ["the king", "ann a/model"], "rules": ["nothing-differs", "shared"] }),
            json!({ "rejected_for": [null], "rules": ["numbers"] }),
            json!({ "problems": [] }),
        ] {
            assert!(!is_it(&[king.clone(), other.clone()]), "{other}");
        }
        assert!(!is_it(&[]), "it was not rejected");
    }
}
