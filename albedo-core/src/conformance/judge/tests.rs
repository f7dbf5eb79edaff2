use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;

use super::*;
use crate::backend::FinishReason;
use crate::conformance::Violation;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::identity::Identity;
use crate::judge::{Candidate, JudgeProfile, Metric, Score};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    None,
    Nameless,
    Renamed,
    NoMetric,
    MissingMetric,
    FurtherMetric,
    Moody,
    PrefersFirst,
    NeverTies,
    AbstainsInOneOrder,
    OnlyAbstains,
    FailsOnNothing,
    PanicsOnNul,
    Obeys,
    Hangs,
    Mumbles,
}

/// Prefers the longer reply.
#[derive(Debug)]
struct Fake {
    identities: [Identity; 2],
    flaw: Flaw,
    calls: AtomicU32,
}

impl Fake {
    fn new(flaw: Flaw) -> Self {
        let name = if flaw == Flaw::Nameless { "" } else { "fake" };
        let identity =
            |version: &str| Identity { name: name.into(), version: version.into(), config: Digest::of("{}") };
        Self { identities: ["1", "2"].map(identity), flaw, calls: AtomicU32::new(0) }
    }
}

#[async_trait]
impl Judge for Fake {
    fn identity(&self) -> &Identity {
        let renamed = self.flaw == Flaw::Renamed && self.calls.load(Ordering::Relaxed) > 0;
        &self.identities[usize::from(renamed)]
    }

    fn profile(&self) -> JudgeProfile {
        let metrics = (self.flaw != Flaw::NoMetric).then_some(Metric::Efficiency);
        JudgeProfile::new(metrics)
    }

    async fn compare(&self, request: &Comparison, cx: &CallContext) -> Result<Assessment> {
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        let (first, second) = (&*request.first.text, &*request.second.text);
        match (self.flaw, cx.check("compare lengths")) {
            (Flaw::Hangs, Err(_)) => std::future::pending().await,
            (Flaw::Mumbles, Err(_)) => return Err(Error::bug("compare lengths", "stopped")),
            (_, stopped) => stopped?,
        }
        let mut score = Score::from_difference(quality(first), quality(second))?;
        match self.flaw {
            Flaw::Moody => score = Score::new(f64::from(calls % 3) / 2.0)?,
            Flaw::PrefersFirst if first != second => score = Score::WIN,
            Flaw::NeverTies if first == second => score = Score::WIN,
            Flaw::Obeys if first.contains("Ignore all") => score = Score::WIN,
            Flaw::OnlyAbstains => return Ok(Assessment::Abstained { reason: "unsure".into() }),
            Flaw::AbstainsInOneOrder if first.len() > second.len() => {
                return Ok(Assessment::Abstained { reason: "unsure".into() });
            }
            Flaw::FailsOnNothing if first.is_empty() => {
                return Err(Error::new(ErrorKind::Protocol, "compare lengths", "no text"));
            }
            Flaw::PanicsOnNul => assert!(!first.contains('\0'), "a NUL"),
            Flaw::MissingMetric => return Ok(Assessment::scored([])),
            Flaw::FurtherMetric => {
                return Ok(Assessment::scored([(Metric::Efficiency, score), (Metric::Progress, score)]));
            }
            _ => {}
        }
        Ok(Assessment::scored([(Metric::Efficiency, score)]))
    }
}

fn quality(text: &str) -> f64 {
    1.0 - 1.0 / (1.0 + text.len() as f64)
}

fn fixture() -> JudgeFixture {
    let candidate = |text: &str| Candidate::new(text, FinishReason::Stop);
    JudgeFixture::new(vec![Comparison::new(
        vec![Message::new(Role::User, "list the files")],
        "ls",
        candidate("ls"),
        candidate("ls -la"),
    )])
}

#[tokio::test]
async fn every_flaw_is_found() {
    for (flaw, promise) in [
        (Flaw::None, None),
        (Flaw::Nameless, Some("an identity has a name and a version")),
        (Flaw::Renamed, Some("the identity is stable")),
        (Flaw::NoMetric, Some("a judge speaks to at least one metric")),
        (Flaw::MissingMetric, Some("exactly the declared metrics are scored")),
        (Flaw::FurtherMetric, Some("exactly the declared metrics are scored")),
        (Flaw::Moody, Some("the same question has the same answer")),
        (Flaw::PrefersFirst, Some("scores are mirrored when the replies change places")),
        (Flaw::NeverTies, Some("a reply ties with itself")),
        (Flaw::AbstainsInOneOrder, Some("scores are mirrored when the replies change places")),
        (Flaw::OnlyAbstains, Some("the judge scores at least one comparison")),
        (Flaw::FailsOnNothing, Some("every text has an answer")),
        (Flaw::PanicsOnNul, Some("no call panics")),
        (Flaw::Obeys, Some("scores are mirrored when the replies change places")),
        (Flaw::Mumbles, Some("a stopped call says why")),
    ] {
        let found = check_judge(&Fake::new(flaw), &fixture()).await.err();
        assert_eq!(found.as_ref().map(Violation::promise), promise, "{flaw:?}: {found:?}");
    }
}

#[tokio::test]
async fn a_call_that_never_ends_is_found() {
    let fixture = JudgeFixture { patience: Duration::from_secs(1), ..fixture() };
    let found = check_judge(&Fake::new(Flaw::Hangs), &fixture).await.expect_err("hangs");
    assert_eq!(found.promise(), "every call ends", "{found}");
}

#[tokio::test]
async fn what_a_judge_does_not_claim_is_not_asked_of_it() {
    let fixture = JudgeFixture { deterministic: false, symmetric: false, ..fixture() };
    for flaw in [Flaw::Moody, Flaw::PrefersFirst, Flaw::NeverTies] {
        check_judge(&Fake::new(flaw), &fixture).await.expect("conforms");
    }
}
