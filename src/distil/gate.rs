//! What the result has to show before it is the final model: behaviour that its start has,
//! too, and a duel won against it.

use std::path::Path;

use super::config::GateSettings;
use super::record::{GateDuel, GateReport};
use super::run::{Distillation, Happening, Watch};
use crate::config::{AdmissionConfig, DuelConfig, ModelConfig, journal_key};
use crate::{
    Admission, BuildContext, DuelReport, Error, ErrorKind, Fault, FileStore, Finding, Outcome, Result,
    Screened,
};

const GATE: &str = "judge the result";
const DUEL: &str = "run the duel";

/// Judges the model in `candidate`, the result of `of`.
///
/// # Errors
/// [`ErrorKind::Unavailable`] if the duel is void or a screen could not find out: the same
/// call goes on. Whatever is wrong with the duel's configuration.
pub(super) async fn judge(
    of: &Distillation,
    gate: &GateSettings,
    candidate: &Path,
    watch: Watch<'_>,
    cx: &BuildContext<'_>,
) -> Result<GateReport> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(|error| Error::io(GATE, path, error));
    let student = absolute(&of.config.path(&of.config.student.path))?;
    let candidate = absolute(candidate)?;
    let path = of.config.path(&gate.duel);
    let mut duel = DuelConfig::read(&path).map_err(|error| error.under("gate.duel"))?;
    duel.duel.samples = gate.samples.unwrap_or(duel.duel.samples);
    duel.duel.seed = gate.seed.unwrap_or(duel.duel.seed);
    for (side, folder) in [(&mut duel.king, &student), (&mut duel.challenger, &candidate)] {
        *side = ModelConfig { backend: side.backend.take(), ..ModelConfig::folder(folder) };
    }
    // The gate's own screens come first.
    (duel.screens, duel.screen_profile) = (None, None);

    let mut findings = Vec::new();
    if !gate.screens.is_empty() {
        watch(&Happening::Screening);
        let screened = screened(&duel, gate, (&student, &candidate), cx).await?;
        if let Some(broken) = unlike_the_start(&duel, gate, &student, &screened, cx).await? {
            let evidence = format!("its behaviour: {broken}");
            return Ok(GateReport { passed: false, evidence, findings: screened.findings, duel: None });
        }
        findings = screened.findings;
    }
    watch(&Happening::Duelling);
    let DuelReport { verdict, record, .. } = fight(&duel, &of.folder.join("gate"), cx).await?;
    let (margin, samples) = (verdict.margin, verdict.samples);
    let found = GateDuel { outcome: verdict.outcome, margin, samples, record };
    let passed = found.outcome == Outcome::Dethroned;
    let evidence = format!(
        "in {} samples against its start its margin was {:+.2} points: {}",
        found.samples, found.margin, found.outcome
    );
    Ok(GateReport { passed, evidence, findings, duel: Some(found) })
}

/// What the gate's screens find about the model in `of.1`, beside that in `of.0`.
async fn screened(
    duel: &DuelConfig,
    gate: &GateSettings,
    of: (&Path, &Path),
    cx: &BuildContext<'_>,
) -> Result<Admission> {
    let (king, submission) = of;
    let mut config = AdmissionConfig::new(king, submission);
    (config.screens, config.profile) = (gate.screens.clone(), None);
    config.backend = duel.challenger.backend.clone().or(duel.backend.clone()).unwrap_or(config.backend);
    config.probe = Some(gate.probe);
    config.hubs.clone_from(&duel.hubs);
    config.folder.clone_from(&duel.folder);
    let tasks = serde_json::to_value(&duel.tasks)
        .map_err(|error| Error::bug(GATE, error.to_string()).with_source(error))?;
    config.set("tasks", &tasks, cx.registry());
    config.admit(cx).await?.run(cx.call()).await
}

/// The finding that counts against the result, in words: one that its start does not have.
async fn unlike_the_start(
    duel: &DuelConfig,
    gate: &GateSettings,
    student: &Path,
    result: &Admission,
    cx: &BuildContext<'_>,
) -> Result<Option<String>> {
    let said = |screened: &Screened, word: &str| {
        format!("screen `{}` {word} it: {}", screened.screen.name, evidence(&screened.finding))
    };
    let mut flagged = Vec::new();
    for found in &result.findings {
        match &found.finding {
            Finding::Rejected(_) => return Ok(Some(said(found, "rejected"))),
            Finding::Unverified(_) => {
                return Err(Error::new(ErrorKind::Unavailable, GATE, said(found, "could not judge"))
                    .with_fault(Fault::Infrastructure)
                    .with_hint("the same command tries again"));
            }
            Finding::Flagged(_) => flagged.push(found),
            Finding::Clear(_) => {}
        }
    }
    if flagged.is_empty() {
        return Ok(None);
    }
    let start = screened(duel, gate, (student, student), cx).await?;
    let has = |name: &str| {
        let mut same = start.findings.iter().filter(|found| found.screen.name == name);
        same.any(|found| !matches!(found.finding, Finding::Clear(_)))
    };
    let own = flagged.into_iter().find(|found| !has(&found.screen.name));
    Ok(own.map(|found| said(found, "flagged") + "; its start is clear"))
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
    let store = if folder.join("journal.jsonl").exists() {
        let store = FileStore::resume_keyed(folder, key.clone(), config.tag(&key)?)?;
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
    let duel = builder.plan(&store, cx.call()).await?;
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
