//! Errors on the wire.

use std::time::Duration;

use albedo_core::error::{Artefact, Reach, Retry};
use albedo_core::{Error, ErrorKind, Fault};
use serde::{Deserialize, Serialize};

/// The longest pause that a peer is granted before the next try. Source: chosen by albedo.
const LONGEST_PAUSE: Duration = Duration::from_hours(24);

/// An error as it goes over the wire: everything that decides what follows from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WireError {
    /// What went wrong.
    pub kind: ErrorKind,
    /// Who has to act, where it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// How far it reaches.
    pub reach: Reach,
    /// Whether to try again.
    pub retry: Retry,
    /// Which of a model's own files it is about: `model` or `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    /// Where a model's arithmetic overflowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overflow: Option<albedo_core::Overflow>,
    /// What was being done.
    pub operation: String,
    /// Why it failed, with the facts.
    pub message: String,
    /// What the reader can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl From<&Error> for WireError {
    fn from(error: &Error) -> Self {
        // An overflow's facts are in `overflow`.
        let facts: Vec<_> = match error.overflow() {
            Some(_) => Vec::new(),
            None => error.context().iter().map(|(key, value)| format!("{key}: {value}")).collect(),
        };
        let message = if facts.is_empty() {
            error.message().to_owned()
        } else {
            format!("{} ({})", error.message(), facts.join(", "))
        };
        Self {
            kind: error.kind(),
            fault: error.said_fault(),
            reach: error.reach(),
            retry: error.retry(),
            about: error.artefact().and_then(|about| match about {
                Artefact::Model => Some("model".to_owned()),
                Artefact::Text => Some("text".to_owned()),
                _ => None,
            }),
            overflow: error.overflow(),
            operation: error.operation().to_owned(),
            message,
            hint: error.hint().map(str::to_owned),
        }
    }
}

impl WireError {
    /// The error that it was. A server knows no sides: a fault of a contestant that one
    /// claims is infrastructure's, and what is about a model's own files is for the
    /// caller to charge.
    pub fn into_error(self) -> Error {
        let error = match self.overflow {
            Some(overflow) => Error::overflowed(self.operation, overflow),
            None => Error::new(self.kind, self.operation, self.message),
        };
        let retry = match self.retry {
            Retry::After(pause) => Retry::After(pause.min(LONGEST_PAUSE)),
            retry => retry,
        };
        let mut error = error.with_reach(self.reach).with_retry(retry);
        match self.about.as_deref() {
            Some("model") => error = error.about(Artefact::Model),
            Some("text") => error = error.about(Artefact::Text),
            _ => {}
        }
        match self.fault {
            Some(Fault::Contestant(_)) => error = error.with_fault(Fault::Infrastructure),
            Some(fault) => error = error.with_fault(fault),
            None => {}
        }
        match self.hint {
            Some(hint) if self.overflow.is_none() => error.with_hint(hint),
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use albedo_core::Overflow;
    use albedo_core::error::Side;
    use serde_json::json;

    use super::*;

    #[test]
    fn an_error_keeps_what_decides_what_follows() {
        let overflow: Overflow =
            serde_json::from_value(json!({ "step": "reply", "position": 7, "place": { "layer": 3 } }))
                .expect("an overflow");
        let malformed = || Error::new(ErrorKind::DataInvalid, "load the model", "malformed");
        for error in [
            malformed().about(Artefact::Model),
            malformed().about(Artefact::Text).with_fault(Fault::Infrastructure),
            Error::new(ErrorKind::DeviceLost, "generate", "gone").with_reach(Reach::Process),
            Error::new(ErrorKind::Unavailable, "fetch", "no answer").with("file", "a").with_hint("wait"),
            Error::overflowed("write a reply", overflow),
        ] {
            let wire = serde_json::to_string(&WireError::from(&error)).expect("writes");
            let back = serde_json::from_str::<WireError>(&wire).expect("reads").into_error();
            let facts = |error: &Error| {
                let charged = error.clone().charged_to(|_| Side::Challenger).fault();
                (error.kind(), error.fault(), error.reach(), error.retry(), error.overflow(), charged)
            };
            assert_eq!(facts(&back), facts(&error), "{wire}");
            assert_eq!(back.to_string(), error.to_string());
        }
    }

    #[test]
    fn no_pause_is_longer_than_a_day() {
        let error = |pause| Error::new(ErrorKind::RateLimited, "load", "x").with_retry(Retry::After(pause));
        for (asked, granted) in
            [(Duration::from_secs(7), Duration::from_secs(7)), (Duration::MAX, LONGEST_PAUSE)]
        {
            let wire = serde_json::to_string(&WireError::from(&error(asked))).expect("writes");
            let back = serde_json::from_str::<WireError>(&wire).expect("reads").into_error();
            assert_eq!(back.retry(), Retry::After(granted), "{wire}");
        }
    }

    #[test]
    fn a_server_charges_no_contestant() {
        let error = Error::new(ErrorKind::Unavailable, "load", "x").with_fault(Fault::Contestant(Side::King));
        assert_eq!(WireError::from(&error).into_error().fault(), Fault::Infrastructure);
    }
}
