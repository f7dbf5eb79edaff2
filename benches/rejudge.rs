//! What judging stored replies again costs: records of 128 samples, an offline panel, all
//! cores, as `albedo record rejudge` works, beside the time that only reading them takes.
//! `cargo bench --bench rejudge` prints seconds, records a second and shares.
//! `ALBEDO_RECORDS` is how many records; 1,000 by default.
#![expect(clippy::print_stdout, reason = "what it prints is the measurement")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use albedo::backend::TokenScores;
use albedo::record::{AnyRecord, JournalKey, VerifyOptions, verify_record};
use albedo::rejudge::Rejudge;
use albedo::testing::{ScriptedSession, completion};
use albedo::{
    CallContext, Digest, Duel, DuelSettings, Error, ErrorKind, FileStore, Judge, MessageRole, Record,
    Registry, Result, Rule, Seed, TaskSource,
};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

const SAMPLES: u32 = 128;

/// The panel that every record is judged by again: every judge that needs no network.
const PANEL: [&str; 3] = ["protocol", "reference-action", "reference-likelihood"];

#[tokio::main]
async fn main() -> Result<()> {
    let records = std::env::var("ALBEDO_RECORDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000);
    let place =
        tempfile::tempdir().map_err(|error| Error::io("create a folder", &std::env::temp_dir(), error))?;
    let (cx, registry) = (CallContext::new(), Registry::linked()?);
    let panel = async |names: &[&str]| -> Result<Vec<Arc<dyn Judge>>> {
        let mut judges = Vec::new();
        for name in names {
            judges.push(registry.build::<dyn Judge>(name, json!({}), &cx).await?);
        }
        Ok(judges)
    };
    let tasks = json!({ "path": albedo::demo::Demo::locate()?.tasks() });
    let tasks = registry.build::<dyn TaskSource>("parquet", tasks, &cx).await?;
    let texts = Arc::new(replies(&*tasks, &cx).await?);
    let (judges, made) = (panel(&PANEL).await?, place.path().join("records"));

    let started = Instant::now();
    let folders: Vec<_> = (0..records).map(|number: u64| made.join(number.to_string())).collect();
    let make = {
        let (judges, texts, tasks) = (judges.clone(), Arc::clone(&texts), Arc::clone(&tasks));
        move |folder: PathBuf, cx: CallContext| {
            let (judges, texts, tasks) = (judges.clone(), Arc::clone(&texts), Arc::clone(&tasks));
            async move { duel(&folder, &texts, tasks, judges, &cx).await }
        }
    };
    on_all_cores(&folders, &cx, make).await?;
    println!("made {records} records of {SAMPLES} samples in {:.1} s", started.elapsed().as_secs_f64());

    let read = timed(&folders, &cx, |folder, _| async move { open(&folder).map(drop) }).await?;
    let verified = timed(&folders, &cx, |folder, cx| async move {
        verify_record(&open(&folder)?, &VerifyOptions::default(), &cx).await.map(drop)
    })
    .await?;
    let again = |rejudge: Rejudge, study: PathBuf| {
        let rejudge = Arc::new(rejudge);
        move |folder: PathBuf, cx: CallContext| {
            let (rejudge, study) = (Arc::clone(&rejudge), study.clone());
            async move {
                let record = open(&folder)?;
                verify_record(&record, &VerifyOptions::default(), &cx).await?;
                rejudge.run(&Arc::new(record), &study, &JournalKey::new([7; 32]), &cx).await.map(drop)
            }
        }
    };
    let study = place.path().join("study");
    let judged = Rejudge { judges: panel(&PANEL).await?, ..Rejudge::default() };
    let rejudged = timed(&folders, &cx, again(judged, study.clone())).await?;
    let rule = Rejudge { rule: Some(Rule::by_name("sequential")?), ..Rejudge::default() };
    let by_rule = timed(&folders, &cx, again(rule, study)).await?;

    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("on {cores} cores:");
    for (what, seconds) in [
        ("reading alone", read),
        ("reading and verifying", verified),
        ("another panel of 3", rejudged),
        ("another rule", by_rule),
    ] {
        println!(
            "{what}: {seconds:.2} s, {:.0} records a second, {:.0} samples a second, reading {:.0} % of it",
            records as f64 / seconds,
            records as f64 * f64::from(SAMPLES) / seconds,
            100.0 * read / seconds
        );
    }
    Ok(())
}

fn open(folder: &Path) -> Result<Record> {
    match AnyRecord::open(folder)? {
        AnyRecord::Duel(record) => Ok(*record),
        AnyRecord::Forfeit(_) => Err(Error::bug("open a record", "no duel has no replies here")),
    }
}

/// Does `work` with each folder, one at a time on each core; the seconds that it took.
async fn timed<F: Future<Output = Result<()>>>(
    folders: &[PathBuf],
    cx: &CallContext,
    work: impl Fn(PathBuf, CallContext) -> F + Clone + Send + 'static,
) -> Result<f64> {
    let started = Instant::now();
    on_all_cores(folders, cx, work).await?;
    Ok(started.elapsed().as_secs_f64())
}

async fn on_all_cores<F: Future<Output = Result<()>>>(
    folders: &[PathBuf],
    cx: &CallContext,
    work: impl Fn(PathBuf, CallContext) -> F + Clone + Send + 'static,
) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (mut waiting, mut running) = (folders.iter().cloned(), JoinSet::new());
    loop {
        while running.len() < cores
            && let Some(folder) = waiting.next()
        {
            let (work, cx, runtime) = (work.clone(), cx.clone(), Handle::current());
            running.spawn_blocking(move || runtime.block_on(work(folder, cx)));
        }
        let Some(joined) = running.join_next().await else { return Ok(()) };
        joined.map_err(|error| Error::bug("measure", error.to_string()))??;
    }
}

/// What agents wrote in the demo's tasks: replies of the usual length.
async fn replies(tasks: &dyn TaskSource, cx: &CallContext) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    for row in 0..tasks.info().rows.min(64) {
        let messages = tasks.row(row, cx).await?.messages;
        let written = messages.into_iter().filter(|message| message.role == MessageRole::Assistant);
        // Scripted models count a token per byte.
        texts.extend(written.map(|message| message.content).filter(|text| text.len() < 1000));
    }
    if texts.is_empty() {
        return Err(Error::new(ErrorKind::DataInvalid, "read the tasks", "they have no reply"));
    }
    Ok(texts)
}

/// A duel in `folder`, whose name is its seed, between two models that say any of `texts`.
async fn duel(
    folder: &Path,
    texts: &Arc<Vec<String>>,
    tasks: Arc<dyn TaskSource>,
    judges: Vec<Arc<dyn Judge>>,
    cx: &CallContext,
) -> Result<()> {
    let seed = folder.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<u64>().ok());
    let says = |name: &'static str, log_prob: f32| {
        let texts = Arc::clone(texts);
        let session = ScriptedSession::new(name, move |request| {
            let about = Digest::of_json(&(name, &request.messages, request.seed.to_string()))?;
            let chosen =
                about.as_bytes()[..8].iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
            let scores = request.score_reply.as_ref().map(|_| TokenScores { log_probs: vec![log_prob; 64] });
            Ok(completion(&texts[chosen % texts.len()]).with_reply_scores(scores))
        });
        session.contestant()
    };
    let settings = DuelSettings {
        samples: SAMPLES,
        rule: Rule::Margin { win_margin: 2.0 },
        seed: Seed::from(seed.unwrap_or_default()),
        ..DuelSettings::default()
    };
    let store = FileStore::create(folder)?;
    let duel = Duel::builder(says("king", -0.75), says("challenger", -0.5))
        .tasks(tasks)
        .judges(judges)
        .settings(settings)
        .build(albedo::build());
    let report = duel.plan(&store, cx).await?.run(&store, cx).await?;
    store.close().await?;
    match report.record {
        Some(_) => Ok(()),
        None => Err(Error::bug("make a record", format!("{:?}", report.verdict))),
    }
}
