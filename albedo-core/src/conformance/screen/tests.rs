use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use serde_json::json;

use super::*;
use crate::checkpoint::{Outline, Segment, TensorSlice, WeightVisitor, WeightsOf};
use crate::conformance::{PATIENCE, Violation};
use crate::digest::Digest;
use crate::error::{ErrorKind, Fault, Side};
use crate::files::FileEntry;
use crate::identity::Identity;
use crate::screen::{FilesScreen, ReplyScreen, WeightsInspection, WeightsScreen};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    None,
    OtherStage,
    Wavers,
    BlamesByError,
    Fails,
    Mumbles,
    NeedsAnchor,
}

/// Rejects replies, files and weights that hold a backtick.
#[derive(Debug, Clone)]
struct Fake {
    identity: Identity,
    stage: ScreenStage,
    flaw: Flaw,
    calls: Arc<AtomicU32>,
}

impl Fake {
    fn new(stage: ScreenStage, flaw: Flaw) -> Self {
        let identity = Identity { name: "fake".into(), version: "1".into(), config: Digest::of("{}") };
        Self { identity, stage, flaw, calls: Arc::default() }
    }

    fn find(&self, text: &[u8]) -> Result<Finding> {
        let operation = "look for backticks";
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        let at = text.iter().position(|&byte| byte == b'`');
        match self.flaw {
            Flaw::Wavers => Ok(Finding::Flagged(json!({ "calls": calls }))),
            Flaw::Fails => Err(Error::new(ErrorKind::Unavailable, operation, "out of order")),
            Flaw::BlamesByError if at.is_some() => {
                Err(Error::new(ErrorKind::DataInvalid, operation, "a backtick")
                    .with_fault(Fault::Contestant(Side::Challenger)))
            }
            _ => Ok(match at {
                Some(at) => Finding::Rejected(json!({ "at": at })),
                None => Finding::Clear(json!({})),
            }),
        }
    }

    fn check(&self, cx: &CallContext) -> Result<()> {
        cx.check("look for backticks").map_err(|error| match self.flaw {
            Flaw::Mumbles => Error::bug("look for backticks", "stopped"),
            _ => error,
        })
    }
}

impl Screen for Fake {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn part(&self) -> ScreenPart<'_> {
        match (self.flaw, self.stage) {
            (Flaw::OtherStage, ScreenStage::Reply) | (_, ScreenStage::Files) => ScreenPart::Files(self),
            (Flaw::OtherStage, _) | (_, ScreenStage::Reply) => ScreenPart::Reply(self),
            (_, ScreenStage::Parameters) => ScreenPart::Weights(self),
            (_, ScreenStage::Behaviour) => ScreenPart::Behaviour(self),
        }
    }
}

#[async_trait]
impl ReplyScreen for Fake {
    async fn inspect(&self, _: &[Message], reply: &str, cx: &CallContext) -> Result<Finding> {
        self.check(cx)?;
        self.find(reply.as_bytes())
    }
}

#[async_trait]
impl FilesScreen for Fake {
    async fn inspect(&self, own: &dyn ModelFiles, _: &dyn ModelFiles, cx: &CallContext) -> Result<Finding> {
        self.check(cx)?;
        let listed = own.list(&CallContext::new()).await?;
        self.find(listed.first().map_or(&[][..], |file| file.name.as_bytes()))
    }
}

#[async_trait]
impl crate::screen::BehaviourScreen for Fake {
    async fn inspect(&self, session: &dyn ModelSession, seed: u64, cx: &CallContext) -> Result<Finding> {
        self.check(cx)?;
        self.find(format!("{seed} {}", session.model().architecture).as_bytes())
    }
}

impl WeightsScreen for Fake {
    fn inspection(&self, _: &[String]) -> Box<dyn WeightsInspection> {
        Box::new(Look { fake: self.clone(), seen: Vec::new(), anchored: false })
    }
}

struct Look {
    fake: Fake,
    seen: Vec<u8>,
    anchored: bool,
}

impl WeightVisitor for Look {
    fn begin(&mut self, of: WeightsOf, _: &Outline) -> Result<Option<Vec<TensorSlice>>> {
        self.anchored |= of == WeightsOf::Anchor;
        Ok((of == WeightsOf::Submission || of == WeightsOf::Anchor).then(Vec::new))
    }

    fn visit(&mut self, segment: &Segment<'_>) -> Result<()> {
        self.seen = segment.bytes.to_vec();
        Ok(())
    }

    fn end(&mut self, _: Digest) -> Result<()> {
        Ok(())
    }
}

impl WeightsInspection for Look {
    fn find(self: Box<Self>) -> Result<Finding> {
        if self.fake.flaw == Flaw::NeedsAnchor && !self.anchored {
            return Ok(Finding::Flagged(json!("no anchor")));
        }
        self.fake.find(&self.seen)
    }
}

/// Files in memory.
#[derive(Debug)]
struct Files(BTreeMap<String, Vec<u8>>);

#[async_trait]
impl ModelFiles for Files {
    async fn list(&self, cx: &CallContext) -> Result<Vec<FileEntry>> {
        cx.check("list")?;
        let entry = |(name, bytes): (&String, &Vec<u8>)| FileEntry::new(name, bytes.len() as u64);
        Ok(self.0.iter().map(entry).collect())
    }

    async fn read(&self, name: &str, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>> {
        cx.check("read")?;
        Ok(self.0[name][range.start as usize..range.end as usize].to_vec())
    }
}

fn model(weights: [u8; 4]) -> Arc<dyn ModelFiles> {
    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(&weights);
    Arc::new(Files([("a.safetensors".to_owned(), file)].into()))
}

fn judged(found: Checked, promise: Option<&str>, flaw: Flaw) {
    let found = found.err();
    assert_eq!(found.as_ref().map(Violation::promise), promise, "{flaw:?}: {found:?}");
}

const COMMON: [(Flaw, Option<&str>); 5] = [
    (Flaw::None, None),
    (Flaw::OtherStage, Some("the fixture fits the implementation")),
    (Flaw::Wavers, Some("the same subject has the same finding")),
    (Flaw::BlamesByError, Some("a contestant's foul is a finding, not an error")),
    (Flaw::Fails, Some("a subject is inspected")),
];

#[tokio::test]
async fn every_flaw_of_a_reply_screen_is_found() {
    for (flaw, promise) in COMMON.into_iter().chain([(Flaw::Mumbles, Some("a stopped call says why"))]) {
        let screen = Fake::new(ScreenStage::Reply, flaw);
        let subjects = ["ls", "`ls`"].map(|reply| (&[][..], reply));
        judged(check_reply_screen(&screen, &subjects, PATIENCE).await, promise, flaw);
    }
    judged(
        check_reply_screen(&Fake::new(ScreenStage::Reply, Flaw::None), &[], PATIENCE).await,
        Some("the fixture fits the implementation"),
        Flaw::None,
    );
}

#[tokio::test]
async fn every_flaw_of_a_files_screen_is_found() {
    let files = ["plain", "`odd`"].map(|name| Files([(name.to_owned(), Vec::new())].into()));
    let [plain, odd] = files.each_ref().map(|files| files as &dyn ModelFiles);
    let flaws = COMMON.into_iter().filter(|(flaw, _)| *flaw != Flaw::OtherStage);
    for (flaw, promise) in flaws.chain([(Flaw::Mumbles, Some("a stopped call says why"))]) {
        let screen = Fake::new(ScreenStage::Files, flaw);
        judged(check_files_screen(&screen, &[[plain, plain], [odd, plain]], PATIENCE).await, promise, flaw);
    }
}

#[tokio::test]
async fn every_flaw_of_a_weights_screen_is_found() {
    let (plain, odd) = (model(*b"abcd"), model(*b"ab`d"));
    let subjects = [Models::new(plain.clone(), plain.clone()), Models::new(plain, odd)];
    for (flaw, promise) in
        COMMON.into_iter().chain([(Flaw::NeedsAnchor, Some("the king is the anchor if there is no other"))])
    {
        let screen = Fake::new(ScreenStage::Parameters, flaw);
        judged(check_weights_screen(&screen, &subjects, PATIENCE).await, promise, flaw);
    }
}
