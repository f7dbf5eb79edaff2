//! `examples/verify.py`, a verifier of records written from `docs/record-format.md`
//! alone, against the verifier of the library: on records of many kinds of duels, half
//! of them altered in one field each and hashed anew, both accept and refuse the same.
//!
//! `ALBEDO_RECORDS` sets the number of records, 50 unless it is set.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use albedo::admission::ScreenedModel;
use albedo::canary::CanarySettings;
use albedo::panel::Reducer;
use albedo::plan::Lanes;
use albedo::prelude::*;
use albedo::record::{AnyRecord, CanonicalRecord, Digests, VerifyOptions, verify_record};
use albedo::reign::EffectPrior;
use albedo::rng::{Stream, Use};
use albedo::testing::{self, Rows, ScriptedBackend, ScriptedJudge, ScriptedSession, completion};
use albedo::twin::{Twin, TwinSettings};
use albedo::{
    Admission, AdmissionOutcome, Alteration, Digest, Evidence, Finding, GenerateRequest, Message,
    MessageRole, Overflow, Prepared, Retry, Sampler, ScreenStage, Screened, TaskRow, Terms, TokenScores,
    canonical_json,
};
use serde_json::{Value, json};

use crate::run::root;

/// A number below `bound` that follows from `parts` alone.
fn below(parts: &str, bound: u64) -> u64 {
    let digest = Digest::of(parts);
    let key = digest.as_bytes().iter().take(8).fold(0, |key, &byte| key << 8 | u64::from(byte));
    Stream::new(key, Use::Chaos).below(bound)
}

/// A model that replies with a number; on some requests its arithmetic overflows, on
/// some it does not answer.
fn models(number: u64) -> Arc<dyn ModelBackend> {
    Arc::new(ScriptedBackend::new("scripted", move |source| {
        let name = format!("{:?}", source.model);
        let reply = move |request: &GenerateRequest| {
            let about = format!("{number} {name} {}", request.seed);
            if number % 5 == 1 && below(&format!("{about} overflow"), 24) == 0 {
                let overflow = json!({ "step": "reply", "position": 7, "place": { "layer": 2 } });
                let overflow: Overflow = serde_json::from_value(overflow).expect("an overflow");
                return Err(Error::overflowed("generate a reply", overflow));
            }
            if number % 5 == 2 && below(&format!("{about} missing"), 24) == 0 {
                return Err(Error::new(ErrorKind::Unavailable, "generate", "down").with_retry(Retry::Never));
            }
            // Few texts, so that some replies are the same.
            let text = format!("reply {} \"quoted\" é\n", below(&about, 6));
            let mut completion = completion(&text);
            let tokens = vec![7; completion.usage.completion_tokens.unwrap_or_default() as usize];
            let gaps = number.is_multiple_of(2).then(|| vec![250; tokens.len()]);
            completion = completion.with_tokens(tokens).with_logit_gaps(gaps);
            let scores = request.score_reply.as_ref().map(|_| {
                let score = |token: u64| -(below(&format!("{about} {token}"), 100) as f32) / 32.0;
                TokenScores { log_probs: (0..3).map(score).collect() }
            });
            Ok(completion.with_reply_scores(scores))
        };
        Ok(Arc::new(ScriptedSession::new("scripted", reply)))
    }))
}

/// Rows with up to three turns, of thirty instances.
fn rows() -> Rows {
    Rows::new(90, |row| {
        let message = |role, text: String| Message::new(role, text);
        let mut messages = vec![message(MessageRole::User, "x".repeat(9 * row as usize))];
        for turn in 0..row % 4 {
            messages.push(message(MessageRole::Assistant, format!("turn {turn}")));
            messages.push(message(MessageRole::User, "\u{1}\u{8}\t next".into()));
        }
        TaskRow { instance_id: format!("i{}", row % 30), repo: format!("r{}", row % 3), messages }
    })
}

/// A judge of `metrics` that prefers by a hash, and now and then declines, fails, or
/// writes what cannot be read.
fn judge(name: &'static str, number: u64, metrics: &'static [Metric], watched: bool) -> Arc<dyn Judge> {
    let judge = ScriptedJudge::new(name, move |request| {
        let about = format!("{name} {number} {} {}", request.first.text, request.second.text);
        let nonce = request.marks.nonce_text();
        let chance = |what: &str| below(&format!("{what} {about} {nonce}"), 20) == 0;
        let recorded =
            watched && (request.first.text == request.reference || request.second.text == request.reference);
        if (!recorded && number % 4 == 1 || number % 24 == 11) && chance("abstain") {
            return Ok(Assessment::Abstained { reason: "no".into() });
        }
        if (!recorded && number % 4 == 2 || number % 24 == 23) && chance("fail") {
            return Err(Error::new(ErrorKind::Timeout, "judge", "late").with_retry(Retry::Never));
        }
        // A filter that dislikes some texts, whatever stands beside them.
        let disliked = |reply: &str| below(&format!("{number} dislikes {reply}"), 6) == 0;
        if number % 8 == 6 && (disliked(&request.first.text) || disliked(&request.second.text)) {
            return Err(Error::new(ErrorKind::Refused, "judge", "filtered").with_retry(Retry::Never));
        }
        let evidence = (number.is_multiple_of(3) || number % 12 == 5).then(|| {
            Box::new(Evidence {
                answer: format!("{{\"nonce\":\"{nonce}\"}}"),
                nonce: Some(nonce.clone()),
                first: vec![Alteration { what: "template-token".into(), count: 2 }],
                second: match number % 4 {
                    1 => vec![Alteration { what: "nonce".into(), count: 1 }],
                    _ => vec![],
                },
                ..Evidence::default()
            })
        });
        if let (Some(evidence), true) = (&evidence, (!recorded || number % 24 == 17) && chance("unreadable"))
        {
            let reason = "no number".into();
            return Ok(Assessment::Unreadable { reason, usage: None, evidence: evidence.clone() });
        }
        let quality = |reply: &str, metric: Metric| {
            if recorded {
                return f64::from(u8::from(reply == &*request.reference));
            }
            below(&format!("{name} {number} {metric} {reply}"), 9) as f64 / 8.0
        };
        let score = |&metric: &Metric| -> albedo::Result<_> {
            let (first, second) =
                (quality(&request.first.text, metric), quality(&request.second.text, metric));
            Ok((metric, Score::from_difference(first, second)?))
        };
        let scores = metrics.iter().map(score).collect::<albedo::Result<_>>()?;
        let rationale = (number % 2 == 1).then(|| "because".to_owned());
        Ok(Assessment::Scored { scores, rationale, usage: None, evidence })
    });
    let mut profile = JudgeProfile::new(metrics.iter().copied());
    profile.canaries = watched;
    let mut judge = judge.with_profile(profile);
    if number % 5 == 3 {
        judge = judge.with_twins(move |reply| {
            let suspected = below(&format!("{number} suspects {reply}"), 3) == 0;
            let text = format!("twin of {reply}");
            (below(&format!("{number} has a twin of {reply}"), 4) > 0).then_some(Twin { text, suspected })
        });
    }
    if number % 6 == 4 {
        let prepare = |_: &albedo::Preparation| Ok(Prepared::Written { text: "a list".into(), usage: None });
        return Arc::new(judge.with_preparation(prepare));
    }
    Arc::new(judge)
}

/// What screens found of submission number `number`, whose parameters are those of the
/// scripted challenger.
fn admission(number: u64) -> Admission {
    let model = |name: &str, reference: &str| ScreenedModel {
        reference: (!number.is_multiple_of(3)).then(|| reference.parse().expect("a reference")),
        files: 3 + number,
        bytes: 1000,
        listing: Digest::of(format!("{name} {number}")),
        parameters: (number % 2 == 1).then(|| testing::model_info("scripted").parameters),
    };
    let screened = |name: &str, stage, finding| Screened { screen: testing::identity(name), stage, finding };
    let digits = "ab".repeat(32);
    let mut findings = vec![
        screened("files", ScreenStage::Files, Finding::Clear(json!({ "files": number }))),
        screened("digest", ScreenStage::Parameters, Finding::Flagged(json!({ "share": 0.25, "of": ["a"] }))),
    ];
    if forfeits(number) {
        let rejected = Finding::Rejected(json!({ "copy_of": "the king" }));
        findings.push(screened("lineage", ScreenStage::Parameters, rejected));
        findings.push(screened("slow", ScreenStage::Parameters, Finding::Unverified(Value::Null)));
    } else {
        findings.push(screened("loops", ScreenStage::Behaviour, Finding::Clear(Value::Null)));
    }
    Admission {
        king: model("king", &format!("ghcr.io/owner/king@sha256:{digits}")),
        submission: model("challenger", &format!("hf:owner/model@{}", &digits[..40])),
        anchor: number.is_multiple_of(2).then(|| Digest::of("anchor")),
        profile: None,
        seed: Some(number),
        outcome: AdmissionOutcome::of(&findings),
        findings,
    }
}

/// Whether submission number `number` is rejected before its duel.
fn forfeits(number: u64) -> bool {
    number % 17 == 16
}

/// Duel number `number`; none if it came to nothing that has a record.
async fn record(number: u64, registry: &Registry) -> Option<CanonicalRecord> {
    let cx = CallContext::new();
    if forfeits(number) {
        let store = MemoryStore::default();
        admission(number).keep(&store, &cx).await.expect("kept");
        return store.record();
    }
    let backend = models(number);
    let load = async |side, name: &str| {
        Contestant::load(side, &backend, &ModelSource::served(name), &cx).await.expect("loads")
    };
    let contestants = (load(Side::King, "king").await, load(Side::Challenger, "challenger").await);
    let mut settings =
        DuelSettings { samples: 6 + (number % 9) as u32, seed: Seed::from(number), ..Default::default() };
    if number % 3 == 2 {
        settings.seed = Seed::from(Digest::of(number.to_string()));
    }
    settings.rule = match number % 4 {
        0 | 1 if number % 8 == 1 => Rule::Fixed { win_margin: 2.0, null_margin: 0.0 },
        0 | 1 => Rule::default(),
        2 => Rule::by_name("margin").expect("a rule"),
        _ => Rule::MarginLcb { win_margin: 1.0, alpha: 0.05, resamples: 100 },
    };
    settings.sampler = if number % 7 == 3 { Sampler::AlbedoPy } else { Sampler::RowDraw };
    settings.panel.reducer = [Reducer::Mean, Reducer::Median, Reducer::Trimmed][(number % 3) as usize];
    settings.panel.max_missing = 0.9;
    settings.context_tokens = Some(256 + 500 + (number % 5) as u32 * 60);
    settings.limits.call_tries = 1 + (number % 3) as u32;
    settings.twins = TwinSettings { share: 2 + (number % 4) as u32 };
    settings.previous = number.is_multiple_of(5).then(|| Digest::of("before"));
    if number % 4 >= 2 && number % 8 < 4 {
        settings.terms = Terms::Reign { attempt: 3, share: 2e-4 };
    }
    if number.is_multiple_of(11) {
        settings.lanes = Lanes { king: 0, challenger: 1 };
    }
    if number % 10 == 3 {
        settings.effect_prior = Some(EffectPrior { duels: 12, sd: 1.5 });
    }
    let watched = number % 6 == 5;
    if watched {
        settings.canaries = Some(CanarySettings { every: 3, preflight: 2, quorum: 1 });
    }
    let all = [Metric::Correctness, Metric::Progress, Metric::Efficiency];
    let all: &'static [Metric] = Box::leak(Box::new(all));
    let mut judges = vec![judge("first", number, &all[..1], watched)];
    judges.extend(number.is_multiple_of(2).then(|| judge("second", number, all, false)));
    judges.extend((number % 4 == 3).then(|| judge("third", number, &all[1..], false)));
    // One that answers every canary stays on the panel.
    judges.extend(watched.then(|| judge("fourth", 0, &all[..2], false)));
    if number % 3 == 1 {
        let likelihood = registry.build::<dyn Judge>("reference-likelihood", json!({}), &cx).await;
        judges.push(likelihood.expect("builds"));
    }
    let duel =
        Duel::builder(contestants.0, contestants.1).tasks(Arc::new(rows())).judges(judges).settings(settings);
    let duel = if number % 7 == 5 { duel.admission(admission(number)) } else { duel };
    let store = MemoryStore::default();
    let duel = duel.build(albedo::build()).plan(&store, &cx).await.expect("plans");
    duel.run(&store, &cx).await.expect("runs");
    store.record()
}

/// A field: the kind of its line and the path to it, with list places left out.
type Field = (String, Vec<String>);

/// Every field of `lines`, with one place where it stands.
fn places(lines: &[Value]) -> BTreeMap<Field, Vec<(usize, Vec<String>)>> {
    fn walk(value: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                for (key, inner) in map {
                    path.push(key.clone());
                    walk(inner, path, found);
                    path.pop();
                }
            }
            Value::Array(items) if !items.is_empty() => {
                for (place, inner) in items.iter().enumerate() {
                    path.push(place.to_string());
                    walk(inner, path, found);
                    path.pop();
                }
            }
            _ => found.push(path.clone()),
        }
    }
    let mut places: BTreeMap<Field, Vec<(usize, Vec<String>)>> = BTreeMap::new();
    for (number, line) in lines.iter().enumerate() {
        let mut found = Vec::new();
        walk(line, &mut Vec::new(), &mut found);
        let kind = line["line"].as_str().expect("a kind").to_owned();
        for path in found {
            let names = path.iter().filter(|name| name.parse::<usize>().is_err()).cloned().collect();
            places.entry((kind.clone(), names)).or_default().push((number, path));
        }
    }
    places
}

/// Another value of the same type: a field keeps its form and changes its meaning.
fn altered(value: &Value, choice: u64) -> Value {
    match value {
        Value::Number(number) => match (number.as_u64(), choice % 2) {
            (Some(whole), 0) => json!(whole + 1),
            (Some(whole), _) => json!(whole.saturating_sub(1)),
            // Exact in single precision, and within any range that the old value is in.
            _ if number.as_f64() == Some(0.5) => json!(0.25),
            _ => json!(0.5),
        },
        Value::Bool(flag) => json!(!flag),
        Value::String(text) => {
            let words = [
                ("sample", "too_long"),
                ("too_long", "sample"),
                ("repeated", "sample"),
                ("no_turn", "repeated"),
                ("stop", "length"),
                ("length", "stop"),
                ("king", "challenger"),
                ("challenger", "king"),
                ("king_first", "challenger_first"),
                ("challenger_first", "king_first"),
                ("mean", "median"),
                ("median", "trimmed"),
                ("trimmed", "mean"),
                ("correctness", "grounding"),
                ("passed", "failed"),
                ("dethroned", "king_holds"),
                ("king_holds", "dethroned"),
                ("futile", "not_shown"),
                ("not_shown", "futile"),
                ("missing", "scored"),
                ("timeout", "unavailable"),
                ("scored", "refused"),
                ("unavailable", "timeout"),
                ("reply", "prompt"),
                ("constant", "swapped"),
                ("clear", "flagged"),
                ("flagged", "rejected"),
                ("rejected", "flagged"),
                ("unverified", "clear"),
                ("files", "parameters"),
                ("parameters", "behaviour"),
                ("behaviour", "files"),
                ("admitted", "void"),
                ("forfeit", "admitted"),
                ("void", "missing"),
            ];
            if let Some((_, other)) = words.iter().find(|(word, _)| word == text) {
                return json!(other);
            }
            // The last digit of a digest, a seed or a nonce; else one more letter.
            match text.char_indices().last() {
                Some((at, last)) if last.is_ascii_hexdigit() && text.len() > 8 => {
                    json!(format!("{}{}", &text[..at], if last == '0' { '1' } else { '0' }))
                }
                _ => json!(format!("{text}1")),
            }
        }
        Value::Null => json!(1),
        Value::Array(_) => json!([1]),
        Value::Object(_) => json!({ "kind": "timeout" }),
    }
}

fn find<'a>(line: &'a mut Value, path: &[String]) -> &'a mut Value {
    path.iter().fold(line, |value, step| match step.parse::<usize>() {
        Ok(place) if value.is_array() => &mut value[place],
        _ => &mut value[step.as_str()],
    })
}

/// Alters one field of `record`: the one that was altered least often so far.
fn forged(record: &CanonicalRecord, number: u64, used: &mut BTreeMap<Field, u64>) -> CanonicalRecord {
    let lines = record.lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    let mut lines: Vec<Value> = lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect();
    let places = places(&lines);
    let name = |path: &Vec<String>| path.last().is_some_and(|last| last == "line");
    let candidates = places.keys().filter(|(_, path)| !name(path));
    let field =
        candidates.min_by_key(|field| used.get(*field).copied().unwrap_or(0)).expect("a field").clone();
    let count = used.entry(field.clone()).or_default();
    *count += 1;
    let at = &places[&field];
    let (line, path) = &at[below(&format!("place {number}"), at.len() as u64) as usize];
    let optional =
        (*count).is_multiple_of(3) && path.last().is_some_and(|last| last.parse::<usize>().is_err());
    if let (true, Some((last, above))) = (optional, path.split_last()) {
        find(&mut lines[*line], above).as_object_mut().expect("an object").remove(last);
    } else {
        let value = find(&mut lines[*line], path);
        *value = altered(value, number);
    }
    let mut bytes = Vec::new();
    for line in &lines {
        bytes.extend(canonical_json(line).expect("writes"));
        bytes.push(b'\n');
    }
    let digest = digests(&bytes, &record.blobs).root();
    CanonicalRecord { lines: bytes, blobs: record.blobs.clone(), digest }
}

fn digests(lines: &[u8], blobs: &[u8]) -> Digests {
    Digests { format: albedo::record::FORMAT, lines: Digest::of(lines), blobs: Digest::of(blobs) }
}

fn write(record: &CanonicalRecord, folder: &Path) {
    fs::create_dir_all(folder).expect("creates");
    for (name, bytes) in [
        ("record.jsonl", record.lines.clone()),
        ("record.blobs", record.blobs.clone()),
        ("record.digest", digests(&record.lines, &record.blobs).to_string().into_bytes()),
    ] {
        fs::write(folder.join(name), bytes).expect("writes");
    }
}

/// The fields of the format, as the script knows them, of which none is among `used`.
fn never_altered(used: &BTreeMap<Field, u64>) -> Vec<String> {
    let metrics: Vec<String> = Metric::ALL.iter().map(ToString::to_string).collect();
    let name = |name: &String| if metrics.contains(name) { "metric".to_owned() } else { name.clone() };
    let used: Vec<String> = used
        .keys()
        .map(|(kind, path)| [vec![kind.clone()], path.iter().map(name).collect()].concat().join(".") + ".")
        .collect();
    let script = root().join("examples/verify.py");
    let known = Command::new("python3").arg(script).arg("--fields").output().expect("python3 starts");
    let known = String::from_utf8(known.stdout).expect("UTF-8");
    let never = known.lines().filter(|field| !used.iter().any(|used| used.starts_with(&format!("{field}."))));
    never.map(str::to_owned).collect()
}

/// What the library makes of the record in `folder`.
async fn ours(folder: &Path, registry: &Registry) -> albedo::Result<()> {
    let options = VerifyOptions { judges: Some(registry), ..VerifyOptions::default() };
    match AnyRecord::open(folder)? {
        AnyRecord::Forfeit(record) => record.verify(None),
        AnyRecord::Duel(record) => verify_record(&record, &options, &CallContext::new()).await.map(drop),
    }
}

#[tokio::test]
async fn an_independent_verifier_accepts_and_refuses_the_same() {
    let wanted = std::env::var("ALBEDO_RECORDS").ok().and_then(|number| number.parse().ok()).unwrap_or(50);
    let registry = Registry::linked().expect("plugins");
    let place = tempfile::tempdir().expect("a folder");
    let (mut folders, mut used, mut number): (Vec<PathBuf>, _, _) = (Vec::new(), BTreeMap::new(), 0);
    while folders.len() < wanted {
        if let Some(record) = record(number, &registry).await {
            let record = if folders.len() % 2 == 1 { forged(&record, number, &mut used) } else { record };
            folders.push(place.path().join(folders.len().to_string()));
            write(&record, &folders[folders.len() - 1]);
        }
        number += 1;
    }
    let Ok(output) = Command::new("python3").arg(root().join("examples/verify.py")).args(&folders).output()
    else {
        println!("skipped: there is no python3");
        return;
    };
    let output = String::from_utf8(output.stdout).expect("UTF-8");
    let theirs: Vec<&str> = output.lines().collect();
    assert_eq!(theirs.len(), folders.len(), "{output}");
    let (mut accepted, mut refused) = (0, 0);
    let mut disagreed = Vec::new();
    for (index, (folder, theirs)) in folders.iter().zip(theirs).enumerate() {
        let ours = ours(folder, &registry).await;
        if ours.is_ok() != theirs.starts_with("verified ") {
            disagreed
                .push(format!("{index}: {theirs}; ours: {:?}", ours.err().map(|error| error.to_string())));
        } else if index % 2 == 0 {
            assert!(ours.is_ok(), "{index}: {theirs}");
        } else if ours.is_ok() {
            accepted += 1;
        } else {
            refused += 1;
        }
    }
    let never = never_altered(&used);
    // Older formats alone have these.
    let older = ["plan.plan.version", "origin.unchained"];
    let missed: Vec<_> = never.iter().filter(|field| !older.contains(&field.as_str())).collect();
    assert!(wanted < 1000 || missed.is_empty(), "no record had these altered: {missed:?}");
    println!(
        "{} records of {number} duels; of those altered {refused} are refused and {accepted} are consistent; {} fields altered",
        folders.len(),
        used.len()
    );
    assert!(disagreed.is_empty(), "{}", disagreed.join("\n"));
    assert!(refused > accepted, "most fields follow from others");
}
