//! What findings are made of.

use albedo_core::{Error, Fault, Finding, Provenance, Result};
use serde::Serialize;
use serde_json::{Value, json};

/// What findings call the king. An earlier submission has its label in the store.
pub(crate) const KING: &str = "the king";

/// The key under which a screen says, for each rejection, which model the submission is too like: a
/// list of labels, [`KING`] or null, for a rejection that concerns no other model. Where the
/// evidence has `rules`, the list is in the order of those that reject, which come first.
pub(crate) const REJECTED_FOR: &str = "rejected_for";

/// Problems that one finding lists; the rest are counted.
const MOST: usize = 32;

/// Whether likeness to the king is all that `finding` rejects a submission for. Goes by
/// `rejected_for` in the evidence: a rejection without it has another cause.
pub fn is_like_the_king_alone(finding: &Finding) -> bool {
    let Finding::Rejected(evidence) = finding else { return false };
    let mut of = evidence[REJECTED_FOR].as_array().into_iter().flatten().peekable();
    of.peek().is_some() && of.all(|of| of == KING)
}

/// One rule that a submission breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// The rule, in a word.
    pub(crate) check: &'static str,
    /// The file, key or tensor that breaks it.
    pub(crate) of: String,
    /// What is wrong, in one line.
    pub(crate) message: String,
    /// Whether a download that ended too early looks just so.
    #[serde(skip)]
    pub(crate) cut: bool,
}

impl Problem {
    pub(crate) fn new(check: &'static str, of: &str, message: impl Into<String>) -> Self {
        Self { check, of: one_line(of), message: one_line(&message.into()), cut: false }
    }

    /// A problem that an incomplete download has too.
    pub(crate) fn cut(check: &'static str, of: &str, message: impl Into<String>) -> Self {
        Self { cut: true, ..Self::new(check, of, message) }
    }
}

/// The problems of a submission: the first [`MOST`], and how many there are. A
/// header can name hundreds of thousands of tensors, each of them wrong.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    listed: Vec<Problem>,
    count: usize,
    /// Of those that are [`Problem::cut`].
    cut: usize,
}

impl Problems {
    pub(crate) fn push(&mut self, problem: Problem) {
        self.count += 1;
        self.cut += usize::from(problem.cut);
        if self.listed.len() < MOST {
            self.listed.push(problem);
        }
    }

    pub(crate) fn first(&self) -> Option<&Problem> {
        self.listed.first()
    }

    /// Whether any of them is one that an incomplete download has too.
    pub(crate) fn any_cut(&self) -> bool {
        self.cut > 0
    }

    /// `Clear` with `facts` if there is no problem. Problems are `Rejected`,
    /// unless all of them may come from a copy of ours that is incomplete: then
    /// nothing is known of the submission, and the finding is `Unverified`.
    pub(crate) fn finding(&self, provenance: Provenance, facts: Value) -> Finding {
        if self.count == 0 {
            return Finding::Clear(facts);
        }
        let mut evidence = json!({ "problems": self.listed, "problems_in_all": self.count, "facts": facts });
        if provenance == Provenance::Copy && self.cut == self.count {
            evidence["fault"] = json!(Fault::Infrastructure);
            evidence["retryable"] = json!(true);
            evidence["hint"] = json!(INCOMPLETE);
            return Finding::Unverified(evidence);
        }
        Finding::Rejected(evidence)
    }
}

/// What was found, with the rule that each reason comes from.
#[derive(Debug, Default)]
pub(crate) struct Reasons {
    rejected: Vec<(&'static str, String)>,
    /// The model that each of `rejected` is about, if it is about one.
    rejected_for: Vec<Option<String>>,
    flagged: Vec<(&'static str, String)>,
}

impl Reasons {
    /// `of` is the model that the submission is too like: [`KING`], a label of the store, or none.
    pub(crate) fn reject(&mut self, rule: &'static str, of: Option<&str>, reason: String) {
        self.rejected.push((rule, reason));
        self.rejected_for.push(of.map(str::to_owned));
    }

    pub(crate) fn flag(&mut self, rule: &'static str, reason: String) {
        self.flagged.push((rule, reason));
    }

    /// The finding, whose evidence is `facts` and the reasons.
    pub(crate) fn finding(self, mut facts: Value) -> Finding {
        let all = || self.rejected.iter().chain(&self.flagged);
        facts["reasons"] = all().map(|(_, reason)| reason.as_str()).collect();
        facts["rules"] = all().map(|(rule, _)| *rule).collect();
        if !self.rejected.is_empty() {
            facts[REJECTED_FOR] = json!(self.rejected_for);
        }
        match (self.rejected.is_empty(), self.flagged.is_empty()) {
            (false, _) => Finding::Rejected(facts),
            (true, false) => Finding::Flagged(facts),
            (true, true) => Finding::Clear(facts),
        }
    }
}

/// What to do about a copy that may be incomplete.
const INCOMPLETE: &str = "this looks like a download that is incomplete: fetch the folder again, or compare its \
                          digests with what was handed in";

/// `value` as evidence.
pub(crate) fn to_value(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value)
        .map_err(|error| Error::bug("write the evidence", error.to_string()).with_source(error))
}

/// `text` in one line of at most 300 characters: it may quote a contestant.
pub(crate) fn one_line(text: &str) -> String {
    let line: String = text
        .chars()
        .take(300)
        .flat_map(|c| {
            let escaped = if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
            escaped.chars().collect::<Vec<_>>()
        })
        .collect();
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Validators go by it, and records have it.
    #[test]
    fn a_rejection_says_which_model_it_is_about() {
        let mut reasons = Reasons::default();
        reasons.flag("noise", "it looks like noise".into());
        reasons.reject("same", Some(KING), "it answers like the king".into());
        let finding = reasons.finding(json!({ "tokens": 7 }));
        let expected = json!({
            "tokens": 7,
            "reasons": ["it answers like the king", "it looks like noise"],
            "rules": ["same", "noise"],
            "rejected_for": ["the king"],
        });
        assert_eq!(finding, Finding::Rejected(expected));
        assert!(is_like_the_king_alone(&finding));

        for other in [None, Some("ann a/model")] {
            let mut reasons = Reasons::default();
            reasons.reject("same", Some(KING), "it answers like the king".into());
            reasons.reject("other", other, "something else".into());
            let finding = reasons.finding(json!({}));
            assert_eq!(finding.evidence()["rejected_for"], json!(["the king", other]));
            assert!(!is_like_the_king_alone(&finding), "{finding:?}");
        }
        let mut reasons = Reasons::default();
        reasons.flag("near", "it answers nearly like the king".into());
        let flagged = reasons.finding(json!({}));
        assert!(flagged.evidence().get(REJECTED_FOR).is_none(), "{flagged:?}");
        let like = json!({ "rejected_for": ["the king"] });
        let others = [json!({ "problems": [] }), json!({ "rejected_for": [] }), json!("text")];
        let others = others.map(Finding::Rejected).into_iter().chain([flagged, Finding::Flagged(like)]);
        for finding in others {
            assert!(!is_like_the_king_alone(&finding), "{finding:?}");
        }
    }
}
