//! What the screens have found, as the ledger says it.

use serde_json::json;

use crate::admission::AdmissionOutcome;
use crate::{Admission, Error, ErrorKind, Fault, Finding, HubRef, Result, Retry};

/// The error of a void admission: what the first screen that could not find out has met.
pub(super) fn void(admission: &Admission) -> Error {
    let why = admission.findings.iter().find_map(|screened| match &screened.finding {
        Finding::Unverified(evidence) => {
            let message = format!("{}: {}", screened.screen.name, evidence["error"]);
            Some((message, evidence["retryable"] == true))
        }
        _ => None,
    });
    let (message, may_pass) = why.unwrap_or_else(|| ("a screen could not find out".into(), false));
    let error = Error::new(ErrorKind::Unavailable, "screen a submission", message);
    // Else it is no outage: it may follow from what was committed.
    if may_pass { error } else { error.with_retry(Retry::Never) }
}

/// Whether a screen could not find out because the model `reference` was not to be had, and no
/// outage was behind it.
pub(super) fn is_unfetched(admission: &Admission, reference: &HubRef) -> bool {
    let (name, operator) = (reference.to_string(), json!(Fault::Operator));
    let speaks_of_it = |error: &str| error.contains(&name);
    admission.outcome == AdmissionOutcome::Void
        && admission.findings.iter().any(|screened| match &screened.finding {
            Finding::Unverified(evidence) => {
                evidence["fault"] == operator && evidence["error"].as_str().is_some_and(speaks_of_it)
            }
            _ => false,
        })
}

/// The first screen that rejected it, and what it found, in a line. `first` tells who handed in the
/// model of a label of the store first, if somebody else did.
pub(super) fn rejected(
    admission: &Admission,
    first: impl FnOnce(&str) -> Result<Option<String>>,
) -> Result<String> {
    let found = admission.findings.iter().find(|screened| matches!(screened.finding, Finding::Rejected(_)));
    let Some(screened) = found else { return Ok("a screen rejected it".to_owned()) };
    let copy = match screened.finding.evidence()["copy_of"].as_str() {
        Some(of) => match first(of)? {
            Some(first) => format!(": a copy of {of}, a model that {first} committed to first"),
            None => format!(": a copy of {of}"),
        },
        None => String::new(),
    };
    Ok(format!("screen `{}` rejected it{copy}", screened.screen.name))
}
