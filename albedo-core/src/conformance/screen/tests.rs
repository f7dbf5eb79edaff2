use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use serde_json::json;

use super::*;
use crate::conformance::{PATIENCE, Violation};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::identity::Identity;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    None,
    OtherStage,
    Wavers,
    BlamesByError,
    TakesAnySubject,
    Operators,
    Mumbles,
}

/// Rejects replies that hold a backtick.
#[derive(Debug)]
struct Fake {
    identity: Identity,
    flaw: Flaw,
    calls: AtomicU32,
}

#[async_trait]
impl Screen for Fake {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn stage(&self) -> ScreenStage {
        if self.flaw == Flaw::OtherStage { ScreenStage::Files } else { ScreenStage::Reply }
    }

    async fn inspect(&self, subject: Subject<'_>, cx: &CallContext) -> Result<Finding> {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        let operation = "look for backticks";
        cx.check(operation).map_err(|error| match self.flaw {
            Flaw::Mumbles => Error::bug(operation, "stopped"),
            _ => error,
        })?;
        let Subject::Reply { reply, .. } = subject else {
            return match self.flaw {
                Flaw::TakesAnySubject => Ok(Finding::Clear(json!({}))),
                Flaw::Operators => Err(Error::new(ErrorKind::Unsupported, operation, "not a reply")),
                _ => Err(Error::bug(operation, "not a reply")),
            };
        };
        match self.flaw {
            Flaw::Wavers => Ok(Finding::Flagged(json!({ "calls": calls }))),
            Flaw::BlamesByError if reply.contains('`') => {
                Err(Error::new(ErrorKind::DataInvalid, operation, "a backtick")
                    .with_fault(Fault::Contestant(Side::Challenger)))
            }
            _ => Ok(match reply.find('`') {
                Some(at) => Finding::Rejected(json!({ "at": at })),
                None => Finding::Clear(json!({})),
            }),
        }
    }
}

#[tokio::test]
async fn every_flaw_is_found() {
    for (flaw, promise) in [
        (Flaw::None, None),
        (Flaw::OtherStage, Some("the fixture fits the implementation")),
        (Flaw::Wavers, Some("the same subject has the same finding")),
        (Flaw::BlamesByError, Some("a contestant's foul is a finding, not an error")),
        (Flaw::TakesAnySubject, Some("a subject of another stage is a bug")),
        (Flaw::Operators, Some("a subject of another stage is a bug")),
        (Flaw::Mumbles, Some("a stopped call says why")),
    ] {
        let identity = Identity { name: "fake".into(), version: "1".into(), config: Digest::of("{}") };
        let screen = Fake { identity, flaw, calls: AtomicU32::new(0) };
        let subjects = ["ls", "`ls`"].map(|reply| Subject::Reply { messages: &[], reply });
        let found = check_screen(&screen, &subjects, PATIENCE).await.err();
        assert_eq!(found.as_ref().map(Violation::promise), promise, "{flaw:?}: {found:?}");
    }
}
