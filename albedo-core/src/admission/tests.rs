use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use async_trait::async_trait;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::backend::ModelSession;
use crate::checkpoint::{Outline, Segment, TensorSlice, WeightVisitor, WeightsOf};
use crate::duel::scripted::Scripted;
use crate::error::{Artefact, Fault, Side};
use crate::events::{Event, EventKind};
use crate::files::FileEntry;
use crate::files::memory::MemoryFiles;
use crate::model_ref::ModelRef;
use crate::screen::{
    BehaviourScreen, BesideScreen, FilesScreen, ScreenPart, Sessions, WeightsInspection, WeightsScreen,
};

#[test]
fn a_duel_follows_only_the_admission_of_its_own_models() {
    let [king, challenger, other] = ["king", "challenger", "other"].map(Digest::of);
    let model = |parameters| ScreenedModel {
        reference: None,
        files: 1,
        bytes: 1,
        listing: Digest::of("[]"),
        parameters,
    };
    let admission = |king, submission| Admission {
        king: model(king),
        submission: model(submission),
        anchor: None,
        profile: None,
        seed: None,
        findings: Vec::new(),
        outcome: AdmissionOutcome::Admitted,
    };
    for (screened, refused) in [
        // No screen has read the weights.
        (admission(None, None), None),
        (admission(Some(king), Some(challenger)), None),
        (admission(Some(other), Some(challenger)), Some("is not the king of the duel")),
        (admission(Some(king), Some(other)), Some("is not the challenger of the duel")),
        (Admission { outcome: AdmissionOutcome::Forfeit, ..admission(None, None) }, Some("does not follow")),
    ] {
        let checked = screened.check_admits(king, challenger).map_err(|error| error.to_string());
        match refused {
            None => assert_eq!(checked, Ok(())),
            Some(why) => assert!(checked.expect_err("refused").contains(why)),
        }
    }
}

type Act = dyn Fn() -> Result<Finding> + Send + Sync;

/// Finds what it is told to.
#[derive(Clone)]
struct Fake {
    identity: Identity,
    stage: ScreenStage,
    act: Arc<Act>,
    /// Whether it acts while weights pass by, not when they have.
    passing: bool,
}

impl Debug for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.identity.name)
    }
}

fn fake(
    name: &str,
    stage: ScreenStage,
    act: impl Fn() -> Result<Finding> + Send + Sync + 'static,
) -> Arc<dyn Screen> {
    let identity = Identity { name: name.into(), version: "1".into(), config: Digest::of("{}") };
    Arc::new(Fake { identity, stage, act: Arc::new(act), passing: false })
}

impl Screen for Fake {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn part(&self) -> ScreenPart<'_> {
        match self.stage {
            ScreenStage::Files => ScreenPart::Files(self),
            ScreenStage::Parameters => ScreenPart::Weights(self),
            _ => ScreenPart::Behaviour(self),
        }
    }
}

#[async_trait]
impl FilesScreen for Fake {
    async fn inspect(&self, _: &dyn ModelFiles, _: &dyn ModelFiles, _: &CallContext) -> Result<Finding> {
        (self.act)()
    }
}

#[async_trait]
impl BehaviourScreen for Fake {
    async fn inspect(&self, _: &dyn ModelSession, _: u64, _: &CallContext) -> Result<Finding> {
        (self.act)()
    }
}

impl WeightsScreen for Fake {
    fn inspection(&self, _: &[String]) -> Box<dyn WeightsInspection> {
        Box::new(self.clone())
    }
}

impl WeightVisitor for Fake {
    fn begin(&mut self, _: WeightsOf, model: &Outline) -> Result<Option<Vec<TensorSlice>>> {
        Ok(Some(vec![model.slice("a", 0, 1)?]))
    }

    fn visit(&mut self, _: &Segment<'_>) -> Result<()> {
        if self.passing { (self.act)().map(|_| ()) } else { Ok(()) }
    }

    fn end(&mut self, _: Digest) -> Result<()> {
        Ok(())
    }
}

impl WeightsInspection for Fake {
    fn find(self: Box<Self>) -> Result<Finding> {
        if self.passing { Ok(Finding::Clear(json!({}))) } else { (self.act)() }
    }
}

#[derive(Debug)]
struct Backend(Identity);

#[async_trait]
impl ModelBackend for Backend {
    fn identity(&self) -> &Identity {
        &self.0
    }

    async fn load(&self, model: &ModelSource, _: &CallContext) -> Result<Arc<dyn ModelSession>> {
        if model.model == ModelRef::served("broken") {
            return Err(Error::new(ErrorKind::DeviceLost, "load the model", "the device is gone"));
        }
        Ok(Arc::new(Scripted::new("submission")))
    }
}

fn probes(model: &str) -> Probes {
    let identity = Identity { name: "scripted".into(), version: "1".into(), config: Digest::of("{}") };
    Probes { backend: Arc::new(Backend(identity)), model: ModelSource::served(model), seed: 7 }
}

fn models() -> (Arc<MemoryFiles>, Arc<MemoryFiles>, Models) {
    let (king, submission) = (MemoryFiles::of(&[1.0, 2.0]), MemoryFiles::of(&[1.0, 3.0]));
    (king.clone(), submission.clone(), Models::new(king, submission))
}

#[expect(clippy::unnecessary_wraps, reason = "a screen may fail")]
fn clear() -> Result<Finding> {
    Ok(Finding::Clear(json!({ "seen": 0.5 })))
}

fn words(admission: &Admission) -> Vec<String> {
    let word = |screened: &Screened| format!("{} {}", screened.screen.name, screened.finding.word());
    admission.findings.iter().map(word).collect()
}

#[tokio::test]
async fn the_stages_run_in_order_and_all_screens_of_one_whatever_they_find() {
    use ScreenStage::{Behaviour, Files, Parameters};
    let screens = |files: fn() -> Result<Finding>, weights: fn() -> Result<Finding>| {
        vec![
            fake("answers", Behaviour, clear),
            fake("weights", Parameters, weights),
            fake("names", Files, files),
            fake("sizes", Files, || Ok(Finding::Flagged(json!("large")))),
            fake("copies", Parameters, clear),
        ]
    };
    let run = async |files, weights| {
        let admit = Admit::new(screens(files, weights), models().2).with_probes(probes("model"));
        let admission = admit.run(&CallContext::new()).await.expect("runs");
        admission.check().expect("follows");
        let json = serde_json::to_string(&admission).expect("writes");
        assert_eq!(serde_json::from_str::<Admission>(&json).expect("reads"), admission);
        (admission.outcome, words(&admission).join(", "))
    };
    let rejected = || Ok(Finding::Rejected(json!("a foul")));
    let failed = || Err(Error::new(ErrorKind::Unavailable, "look", "the store is down"));
    assert_eq!(
        run(clear, clear).await,
        (
            AdmissionOutcome::Admitted,
            "names clear, sizes flagged, weights clear, copies clear, answers clear".into()
        )
    );
    assert_eq!(
        run(rejected, failed).await,
        (AdmissionOutcome::Forfeit, "names rejected, sizes flagged".into())
    );
    assert_eq!(
        run(clear, failed).await,
        (AdmissionOutcome::Void, "names clear, sizes flagged, weights unverified, copies clear".into())
    );
    assert_eq!(
        run(|| panic!("a screen of somebody's"), clear).await,
        (AdmissionOutcome::Void, "names unverified, sizes flagged".into())
    );
}

#[tokio::test]
async fn an_error_is_unverified_with_its_fault_and_the_submission_is_not_loaded_in_vain() {
    let answers = || vec![fake("answers", ScreenStage::Behaviour, clear)];
    let admit = Admit::new(answers(), models().2).with_probes(probes("broken"));
    let admission = admit.run(&CallContext::new()).await.expect("runs");
    let Finding::Unverified(evidence) = &admission.findings[0].finding else { panic!("{admission:?}") };
    assert_eq!(evidence["fault"], json!(Fault::Infrastructure));
    assert_eq!((&evidence["retryable"], admission.outcome), (&json!(true), AdmissionOutcome::Void));
    assert_eq!(admission.clone().published().findings[0].finding, Finding::Unverified(json!(null)));

    let admission = Admit::new(answers(), models().2).run(&CallContext::new()).await.expect("runs");
    assert!(admission.is_admitted() && admission.findings.is_empty() && admission.seed.is_none());
}

/// Says which models it was shown, and keeps what the questions follow from.
#[derive(Debug)]
struct Beside(Identity, Mutex<Vec<u64>>);

impl Screen for Beside {
    fn identity(&self) -> &Identity {
        &self.0
    }

    fn part(&self) -> ScreenPart<'_> {
        ScreenPart::Beside(self)
    }
}

#[async_trait]
impl BesideScreen for Beside {
    async fn inspect(
        &self,
        sessions: Sessions<'_>,
        own: &[String],
        seed: u64,
        _: &CallContext,
    ) -> Result<Finding> {
        let models = [sessions.submission, sessions.king].map(|session| session.model().parameters);
        Ok(Finding::Clear(json!({ "models": models, "own": own, "seed": seed })))
    }

    async fn remember(&self, _: Sessions<'_>, seed: u64, _: &CallContext) -> Result<()> {
        self.1.lock().expect("a lock").push(seed);
        Ok(())
    }
}

/// What later submissions are compared with is kept of those alone that pass.
#[tokio::test]
async fn answers_are_remembered_once_every_screen_has_passed() {
    let identity = Identity { name: "beside".into(), version: "1".into(), config: Digest::of("{}") };
    let beside = Arc::new(Beside(identity, Mutex::default()));
    let kept = || beside.1.lock().expect("a lock").clone();
    let admit = |others: Vec<Arc<dyn Screen>>| {
        let screens = others.into_iter().chain([Arc::clone(&beside) as Arc<dyn Screen>]).collect();
        let admit = Admit::new(screens, models().2).with_probes(probes("model"));
        admit.with_king(ModelSource::served("king"))
    };
    let run = async |admit: Admit| admit.run(&CallContext::new()).await.expect("runs");
    assert!(run(admit(Vec::new())).await.is_admitted());
    assert!(kept().is_empty(), "nobody asked for it");
    let rejects = fake("no", ScreenStage::Behaviour, || Ok(Finding::Rejected(json!({}))));
    let rejected = run(admit(vec![rejects]).with_questions(5)).await;
    assert_eq!((rejected.outcome, kept()), (AdmissionOutcome::Forfeit, vec![]));
    assert!(run(admit(Vec::new()).with_questions(5)).await.is_admitted());
    assert_eq!(kept(), [5]);
}

#[tokio::test]
async fn the_king_is_run_for_screens_that_compare_and_his_outage_is_nobodys_fault() {
    let identity = Identity { name: "beside".into(), version: "1".into(), config: Digest::of("{}") };
    let screens: Vec<Arc<dyn Screen>> = vec![Arc::new(Beside(identity, Mutex::default()))];
    let profile = ScreenProfile::new("a profile", &screens).expect("a profile");
    let admit = Admit::new(screens, models().2).with_probes(probes("model")).with_own(["label"]);
    let run = async |admit: &Admit| admit.run(&CallContext::new()).await.expect("runs");
    let alone = run(&admit).await;
    assert!(alone.is_admitted() && words(&alone) == ["beside flagged"], "{alone:?}");
    let king = |name: &str| ModelSource::served(name);
    let found = run(&admit.clone().with_king(king("king")).with_profile(profile.clone())).await;
    let evidence = found.findings[0].finding.evidence();
    assert_eq!((&evidence["own"], &evidence["seed"]), (&json!(["label"]), &json!(7)));
    assert_eq!((words(&found), found.profile), (vec!["beside clear".to_owned()], Some(profile)));
    let down = run(&admit.with_king(king("broken"))).await;
    assert_eq!((down.outcome, words(&down)), (AdmissionOutcome::Void, vec!["beside unverified".to_owned()]));
}

#[tokio::test]
async fn weights_are_read_once_however_many_screens_look() {
    let (king, submission, models) = models();
    let anchor = MemoryFiles::of(&[0.0]);
    let models = Models { anchor: Some(anchor.clone()), ..models };
    let screens = (0..5).map(|number| fake(&number.to_string(), ScreenStage::Parameters, clear)).collect();
    let last = Arc::new(AtomicU64::new(0));
    let told = Arc::clone(&last);
    let cx = CallContext::new().with_events(Arc::new(move |event: &Event| {
        if let EventKind::Progress { done, total: Some(total), .. } = &event.kind {
            assert!(done <= total && told.swap(*done, Ordering::Relaxed) < *done);
        }
    }));
    let admission = Admit::new(screens, models).run(&cx).await.expect("runs");
    let mut bytes = 0;
    for files in [&anchor, &king, &submission] {
        let reads = files.reads("model.safetensors");
        assert!(reads.iter().all(|&count| count == 1), "{reads:?}");
        bytes += reads.len() as u64;
    }
    assert_eq!(last.load(Ordering::Relaxed), bytes);
    let file = Digest::of(submission.bytes("model.safetensors"));
    assert_eq!(admission.submission.parameters, Some(Digest::of(format!("{file}  model.safetensors\n"))));
    assert!(admission.king.parameters.is_some() && admission.anchor.is_some());
}

/// A disk that stalls for ten seconds: whoever reads waits until another task,
/// which has to go on meanwhile, ends the stall.
#[tokio::test]
async fn a_disk_that_stalls_under_a_screen_delays_no_other_task() {
    for (stage, passing) in
        [(ScreenStage::Files, false), (ScreenStage::Parameters, true), (ScreenStage::Parameters, false)]
    {
        let (end, stalled) = mpsc::channel::<()>();
        let (stalls, mut has_stalled) = tokio::sync::mpsc::unbounded_channel();
        let (stalled, runtime) = (Mutex::new(stalled), thread::current().id());
        let read = move || {
            assert_ne!(thread::current().id(), runtime, "the disk is waited for on the async thread");
            stalls.send(()).expect("somebody waits");
            // Ends at once when the other task is done.
            let _ = stalled.lock().expect("unpoisoned").recv();
            clear()
        };
        let identity = Identity { name: "slow".into(), version: "1".into(), config: Digest::of("{}") };
        let slow: Arc<dyn Screen> = Arc::new(Fake { identity, stage, act: Arc::new(read), passing });
        let admit = Admit::new(vec![slow, fake("quick", stage, clear)], models().2);
        let cx = CallContext::new();
        let other = async {
            has_stalled.recv().await.expect("the disk stalls");
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            drop(end);
        };
        let (admission, ()) = tokio::join!(admit.run(&cx), other);
        let admission = admission.expect("runs");
        assert_eq!(words(&admission), ["slow clear", "quick clear"], "{stage:?} {passing}");
    }
}

#[tokio::test]
async fn a_cancelled_admission_ends_while_the_disk_still_stalls() {
    let (end, stalled) = mpsc::channel::<()>();
    let (stalls, mut has_stalled) = tokio::sync::mpsc::unbounded_channel();
    let stalled = Mutex::new(stalled);
    let slow = fake("slow", ScreenStage::Parameters, move || {
        stalls.send(()).expect("somebody waits");
        let _ = stalled.lock().expect("unpoisoned").recv();
        clear()
    });
    let (admit, cx) = (Admit::new(vec![slow], models().2), CallContext::new());
    let other = async {
        has_stalled.recv().await.expect("the disk stalls");
        cx.cancel();
    };
    let (admission, ()) = tokio::join!(admit.run(&cx), other);
    assert_eq!(admission.expect_err("cancelled").kind(), ErrorKind::Cancelled);
    drop(end);
}

#[test]
fn what_does_not_follow_is_found() {
    let model =
        ScreenedModel { reference: None, files: 1, bytes: 1, listing: Digest::of("[]"), parameters: None };
    let screened = |stage, finding| Screened {
        screen: Identity { name: "x".into(), version: "1".into(), config: Digest::of("{}") },
        stage,
        finding,
    };
    let admission = |findings: Vec<Screened>, outcome| Admission {
        king: model.clone(),
        submission: model.clone(),
        anchor: None,
        profile: None,
        seed: None,
        findings,
        outcome,
    };
    let rejected = || Finding::Rejected(json!({}));
    let clear = || Finding::Clear(json!({}));
    let good = vec![
        screened(ScreenStage::Files, clear()),
        screened(ScreenStage::Parameters, clear()),
        screened(ScreenStage::Parameters, rejected()),
    ];
    assert!(admission(good.clone(), AdmissionOutcome::Forfeit).check().is_ok());
    for (findings, why) in [
        (good.clone(), "outcome does not follow"),
        (good.iter().rev().cloned().collect(), "order of the stages"),
        (vec![screened(ScreenStage::Reply, clear())], "stage that admission does not have"),
        (
            vec![screened(ScreenStage::Files, rejected()), screened(ScreenStage::Parameters, clear())],
            "follows one that ended",
        ),
    ] {
        let error = admission(findings, AdmissionOutcome::Admitted).check().expect_err("wrong");
        assert!(error.to_string().contains(why), "{error}");
    }
}

proptest! {
    #[test]
    fn a_rejection_forfeits_whatever_else_was_found(kinds in proptest::collection::vec(0_u8..4, 0..8)) {
        let finding = |kind| match kind {
            0 => Finding::Clear(json!({})),
            1 => Finding::Flagged(json!({})),
            2 => Finding::Unverified(json!({})),
            _ => Finding::Rejected(json!({})),
        };
        let screened = |kind: &u8| Screened {
            screen: Identity { name: "x".into(), version: "1".into(), config: Digest::of("{}") },
            stage: ScreenStage::Files,
            finding: finding(*kind),
        };
        let findings: Vec<_> = kinds.iter().map(screened).collect();
        let expected = if kinds.contains(&3) {
            AdmissionOutcome::Forfeit
        } else if kinds.contains(&2) {
            AdmissionOutcome::Void
        } else {
            AdmissionOutcome::Admitted
        };
        prop_assert_eq!(AdmissionOutcome::of(&findings), expected);
        prop_assert_eq!(AdmissionOutcome::of(findings.iter().rev()), expected);
    }
}

/// Files of a hub whose proof or holding fails with `error`.
#[derive(Debug)]
struct Unproven {
    files: Arc<MemoryFiles>,
    error: fn() -> Error,
}

#[async_trait]
impl ModelFiles for Unproven {
    async fn list(&self, cx: &CallContext) -> Result<Vec<FileEntry>> {
        self.files.list(cx).await
    }

    async fn read(&self, name: &str, range: Range<u64>, cx: &CallContext) -> Result<Vec<u8>> {
        self.files.read(name, range, cx).await
    }

    async fn prove(&self, _: &CallContext) -> Result<()> {
        Err((self.error)())
    }

    async fn hold(&self, _: &CallContext) -> Result<()> {
        Err((self.error)())
    }
}

#[tokio::test]
async fn bytes_that_are_not_proven_convict_nobody() {
    let others = || {
        Error::new(ErrorKind::DigestMismatch, "prove", "other bytes before").with_fault(Fault::Infrastructure)
    };
    let swapped = || Error::new(ErrorKind::DataInvalid, "hold", "swapped").about(Artefact::Model);
    let run = async |stage, finding: fn() -> Result<Finding>, error| {
        let (king, files, _) = models();
        let models = Models::new(king, Arc::new(Unproven { files, error }));
        Admit::new(vec![fake("one", stage, finding)], models).run(&CallContext::new()).await
    };
    let rejected = || Ok(Finding::Rejected(json!("a foul")));
    let outcome = |admission: Result<Admission>| admission.expect("runs").outcome;
    assert_eq!(outcome(run(ScreenStage::Files, rejected, others).await), AdmissionOutcome::Void);
    assert_eq!(outcome(run(ScreenStage::Files, clear, others).await), AdmissionOutcome::Admitted);
    assert_eq!(outcome(run(ScreenStage::Parameters, rejected, others).await), AdmissionOutcome::Void);
    // What matches a digest of the listing is the submission's.
    let error = run(ScreenStage::Parameters, clear, swapped).await.expect_err("its own");
    assert_eq!(error.fault(), Fault::Contestant(Side::Challenger));
}
