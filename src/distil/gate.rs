//! What the result has to show before it is the final model: behaviour that its start has,
//! too, and a duel won against it.

use std::path::Path;

use super::config::{DistilConfig, GateSettings};
use super::record::{GateDuel, GateReport, context};
use super::run::{Distillation, Happening, Watch};
use crate::config::{AdmissionConfig, DuelConfig, ModelConfig, journal_key};
use crate::{
    Admission, BuildContext, DuelReport, Error, ErrorKind, Fault, FileStore, Finding, Outcome, PluginConfig,
    Registry, Result, Screen, ScreenStage, Screened,
};

const CHECK: &str = "check the duel of the gate";
const GATE: &str = "judge the result";
const DUEL: &str = "run the duel";

/// The duel of `gate`, as its file and the gate's own keys have it.
///
/// # Errors
/// The file is missing or malformed.
pub(super) fn configured(config: &DistilConfig, gate: &GateSettings) -> Result<DuelConfig> {
    let mut duel = DuelConfig::read(&config.path(&gate.duel)).map_err(|error| error.under("gate.duel"))?;
    duel.duel.samples = gate.samples.unwrap_or(duel.duel.samples);
    duel.duel.seed = gate.seed.unwrap_or(duel.duel.seed);
    Ok(duel)
}

/// Refuses what the gate's duel `duel` could not be planned with once the training is through: the
/// plan of the distillation freezes its settings before.
///
/// # Errors
/// [`ErrorKind::ConfigInvalid`] or [`ErrorKind::UnknownPlugin`], with the key; the student's
/// configuration is malformed.
pub(super) fn check(config: &DistilConfig, mut duel: DuelConfig, registry: &Registry) -> Result<()> {
    let student = config.path(&config.student.path);
    seat(&mut duel, [&student, &student]);
    duel.check(registry).map_err(|error| error.under("gate.duel"))?;
    let most = duel.duel.generation.max_new_tokens;
    let Some(longest) = context(&student).map_err(|error| error.under("student.path"))? else {
        return Ok(());
    };
    let tokens = duel.duel.context_tokens.map_or(longest, u64::from);
    if tokens <= longest && tokens > u64::from(most) {
        return Ok(());
    }
    let (key, message, hint) = if tokens > longest {
        let message = "the context of the gate's duel is longer than what the student can read";
        ("gate.duel.duel.context_tokens", message, "lower it to the student's context")
    } else {
        let message = "a reply in the gate's duel leaves no room for a prompt in the student's context";
        ("gate.duel.duel.generation.max_new_tokens", message, "lower it below the context")
    };
    Err(Error::new(ErrorKind::ConfigInvalid, CHECK, message)
        .with("key", key)
        .with("context tokens", tokens)
        .with("the student's context", longest)
        .with("max_new_tokens", most)
        .with_hint(hint))
}

/// Puts the models in `folders` on the sides of `duel`, king and challenger, each with the side's own
/// backend. The gate's own screens stand in place of the duel's.
fn seat(duel: &mut DuelConfig, folders: [&Path; 2]) {
    for (side, folder) in [&mut duel.king, &mut duel.challenger].into_iter().zip(folders) {
        *side = ModelConfig { backend: side.backend.take(), ..ModelConfig::folder(folder) };
    }
    (duel.screens, duel.screen_profile) = (None, None);
}

/// Judges the model in `candidate`, the result of `of`, whose gate has `duel`.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if the duel is void or a screen could not find out: the same
/// call goes on. Whatever is wrong with the duel's configuration.
pub(super) async fn judge(
    of: &Distillation,
    (gate, mut duel): (&GateSettings, DuelConfig),
    candidate: &Path,
    watch: Watch<'_>,
    cx: &BuildContext<'_>,
) -> Result<GateReport> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(|error| Error::io(GATE, path, error));
    let student = absolute(&of.config.path(&of.config.student.path))?;
    let candidate = absolute(candidate)?;
    seat(&mut duel, [&student, &candidate]);

    let mut findings = Vec::new();
    if !gate.screens.is_empty() {
        watch(&Happening::Screening);
        let screened = screened(&duel, (gate, &gate.screens[..]), (&student, &candidate), cx).await?;
        if let Some(evidence) = unlike_the_start(&duel, gate, &student, &screened, cx).await? {
            return Ok(GateReport { passed: false, evidence, findings: screened.findings, duel: None });
        }
        findings = screened.findings;
    }
    watch(&Happening::Duelling);
    let DuelReport { verdict, record, .. } = fight(&duel, &of.folder.join("gate"), cx).await?;
    let (margin, samples) = (verdict.margin, verdict.samples);
    let found = GateDuel { outcome: verdict.outcome, margin, samples, record };
    let passed = found.outcome == Outcome::Dethroned;
    Ok(GateReport { passed, evidence: decided(&found), findings, duel: Some(found) })
}

/// What `duel` showed, in a sentence.
pub(super) fn decided(duel: &GateDuel) -> String {
    let GateDuel { outcome, margin, samples, .. } = duel;
    format!("in {samples} samples against its start its margin was {margin:+.2} points: {outcome}")
}

/// Why a result does not pass that `found` counts against, in a sentence; none if it does not.
pub(super) fn misbehaved(found: &Screened) -> Option<String> {
    match found.finding {
        Finding::Rejected(_) => Some(format!("its behaviour: {}", said(found, "rejected it"))),
        Finding::Flagged(_) => {
            Some(format!("its behaviour: {}; its start is clear", said(found, "flagged it")))
        }
        Finding::Clear(_) | Finding::Unverified(_) => None,
    }
}

/// What a screen made of a model: `word`, with the evidence.
fn said(found: &Screened, word: &str) -> String {
    format!("screen `{}` {word}: {}", found.screen.name, evidence(&found.finding))
}

/// The screen of `found` could not find out: `word` says what.
fn unjudged(found: &Screened, word: &str) -> Error {
    Error::new(ErrorKind::Unavailable, GATE, said(found, word))
        .with_fault(Fault::Infrastructure)
        .with_hint("the same command tries again")
}

/// What `screens`, which are of `gate`, find about the model in `of.1`, beside that in `of.0`.
async fn screened(
    duel: &DuelConfig,
    (gate, screens): (&GateSettings, &[PluginConfig<dyn Screen>]),
    of: (&Path, &Path),
    cx: &BuildContext<'_>,
) -> Result<Admission> {
    let (king, submission) = of;
    let mut config = AdmissionConfig::new(king, submission);
    (config.screens, config.profile) = (screens.to_vec(), None);
    config.backend = duel.challenger.backend.clone().or(duel.backend.clone()).unwrap_or(config.backend);
    config.probe = Some(gate.probe);
    config.hubs.clone_from(&duel.hubs);
    config.folder.clone_from(&duel.folder);
    let tasks = serde_json::to_value(&duel.tasks)
        .map_err(|error| Error::bug(GATE, error.to_string()).with_source(error))?;
    config.set("tasks", &tasks, cx.registry());
    config.admit(cx).await?.run(cx.call()).await
}

/// The finding that counts against the result, in a sentence: one about its behaviour that its start does
/// not have. The start's files and weights are not screened: they are what the result's are compared with.
/// So a rejection of the result's files or weights always counts: it ends the screening before the behaviour.
/// A flag on them never does: a model is as like itself.
async fn unlike_the_start(
    duel: &DuelConfig,
    gate: &GateSettings,
    student: &Path,
    result: &Admission,
    cx: &BuildContext<'_>,
) -> Result<Option<String>> {
    let mut adverse = Vec::new();
    for found in &result.findings {
        match &found.finding {
            Finding::Rejected(_) if found.stage != ScreenStage::Behaviour => return Ok(misbehaved(found)),
            Finding::Unverified(_) => return Err(unjudged(found, "could not judge it")),
            Finding::Rejected(_) | Finding::Flagged(_) if found.stage == ScreenStage::Behaviour => {
                adverse.push(found);
            }
            Finding::Rejected(_) | Finding::Flagged(_) | Finding::Clear(_) => {}
        }
    }
    if adverse.is_empty() {
        return Ok(None);
    }
    let screens = of_behaviour(&gate.screens, &result.findings);
    let start = screened(duel, (gate, &screens[..]), (student, student), cx).await?;
    unexcused(&adverse, &start.findings)
}

/// Those of `screens` that, as far as `found` says, do not compare files or weights.
fn of_behaviour(screens: &[PluginConfig<dyn Screen>], found: &[Screened]) -> Vec<PluginConfig<dyn Screen>> {
    let compares = |screen: &&PluginConfig<dyn Screen>| {
        let mut others = found.iter().filter(|found| found.stage != ScreenStage::Behaviour);
        others.any(|found| found.screen.name == screen.name())
    };
    screens.iter().filter(|screen| !compares(screen)).cloned().collect()
}

/// The first of `adverse`, flags and rejections of the result, that the findings about the start,
/// `start`, do not excuse, in a sentence. A flag of the start excuses no rejection.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if the start could not be judged.
fn unexcused(adverse: &[&Screened], start: &[Screened]) -> Result<Option<String>> {
    for found in adverse {
        let same: Vec<_> = start.iter().filter(|own| own.screen.name == found.screen.name).collect();
        let excuses = |own: &&Screened| match own.finding {
            Finding::Rejected(_) => true,
            Finding::Flagged(_) => matches!(found.finding, Finding::Flagged(_)),
            Finding::Clear(_) | Finding::Unverified(_) => false,
        };
        if same.iter().any(excuses) {
            continue;
        }
        let unverified = same.into_iter().find(|own| matches!(own.finding, Finding::Unverified(_)));
        return match unverified {
            Some(own) => Err(unjudged(own, "did not let the result pass, and could not judge its start")),
            None => Ok(misbehaved(found)),
        };
    }
    Ok(None)
}

/// The numbers of a finding's evidence, in a line.
fn evidence(finding: &Finding) -> String {
    let fields = finding.evidence().as_object().into_iter().flatten();
    let told = fields.filter(|(_, value)| value.is_number() || value.is_string());
    told.map(|(key, value)| format!("{} {value}", key.replace('_', " "))).collect::<Vec<_>>().join(", ")
}

/// Runs a duel without screens, or goes on with it, in `folder`.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if the duel is void: the same call goes on.
pub(super) async fn fight(config: &DuelConfig, folder: &Path, cx: &BuildContext<'_>) -> Result<DuelReport> {
    config.check(cx.registry())?;
    let builder = config.builder(cx).await?;
    let key = journal_key()?;
    let mut changed = false;
    let store = if folder.join("journal.jsonl").exists() {
        // The journal is chained to the configuration that it was begun with. One that was mended since
        // goes on with it, if its plan is the same.
        let own = config.tag(&key)?;
        let saved = DuelConfig::saved(folder).and_then(|saved| saved.of(&key)).ok().flatten();
        let anchor = saved.map_or(own, |(_, anchor)| anchor);
        changed = anchor != own;
        let store = FileStore::resume_keyed(folder, key.clone(), anchor)?;
        if let Some(line) = store.foreign() {
            let message = "this user did not write the journal of the duel, or it was altered";
            return Err(Error::new(ErrorKind::Conflict, DUEL, message)
                .with_fault(Fault::Operator)
                .with("folder", folder.display())
                .with("line", line)
                .with_hint("delete the folder: the duel begins anew"));
        }
        store
    } else {
        let anchor = config.save_new(folder, &key)?;
        FileStore::create_keyed(folder, key, anchor)?
    };
    let duel = builder.plan(&store, cx.call()).await.map_err(|error| match error.kind() {
        ErrorKind::Conflict if changed => error.with("folder", folder.display()).with_hint(
            "the duel's configuration was changed since it began: put it back as it was, or delete the \
             folder, and the duel begins anew",
        ),
        _ => error,
    })?;
    let report = duel.run(&store, cx.call()).await.map_err(|error| error.with("duel", folder.display()))?;
    store.close().await?;
    if let Outcome::Void(_) = report.verdict.outcome {
        return Err(Error::new(ErrorKind::Unavailable, DUEL, report.verdict.outcome.to_string())
            .with_fault(Fault::Infrastructure)
            .with("duel", folder.display())
            .with_hint("the same command asks again for what is missing"));
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Identity;

    fn found(screen: &str, finding: fn(serde_json::Value) -> Finding) -> Screened {
        let screen = Identity::new(screen, "1", &()).expect("an identity");
        Screened { screen, stage: ScreenStage::Behaviour, finding: finding(json!({ "broken": 3 })) }
    }

    #[test]
    fn only_what_was_found_about_the_start_excuses_the_result() {
        let flagged = [&found("sanity", Finding::Flagged), &found("loops", Finding::Flagged)];
        let start = |loops: fn(serde_json::Value) -> Finding| {
            unexcused(&flagged, &[found("sanity", Finding::Rejected), found("loops", loops)])
        };
        assert_eq!(start(Finding::Flagged).expect("is judged"), None);
        let clear = start(Finding::Clear).expect("is judged").expect("counts");
        assert_eq!(clear, "its behaviour: screen `loops` flagged it: broken 3; its start is clear");
        let error = start(Finding::Unverified).expect_err("the start could not be screened");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::Unavailable, Fault::Infrastructure));
        assert!(error.to_string().contains("could not judge its start: broken 3"), "{error}");
    }

    #[test]
    fn the_start_is_not_compared_with_itself() {
        let screens: Vec<PluginConfig<dyn Screen>> =
            ["digest", "sanity", "loops"].map(PluginConfig::named).into();
        let digest = Screened { stage: ScreenStage::Parameters, ..found("digest", Finding::Clear) };
        let findings = [digest, found("sanity", Finding::Rejected), found("loops", Finding::Clear)];
        assert_eq!(of_behaviour(&screens, &findings), screens[1..]);
        assert_eq!(of_behaviour(&screens[1..], &findings[1..]), screens[1..]);
    }

    #[test]
    fn a_rejection_that_the_start_has_too_does_not_count() {
        let rejected = found("sanity", Finding::Rejected);
        let start = |finding: fn(serde_json::Value) -> Finding| {
            unexcused(&[&rejected], &[found("sanity", finding), found("loops", Finding::Rejected)])
        };
        assert_eq!(start(Finding::Rejected).expect("is judged"), None);
        for less in [Finding::Clear, Finding::Flagged] {
            let counts = start(less).expect("is judged").expect("counts");
            assert_eq!(counts, "its behaviour: screen `sanity` rejected it: broken 3");
        }
        assert_eq!(
            start(Finding::Unverified).expect_err("could not be screened").kind(),
            ErrorKind::Unavailable
        );
    }
}
