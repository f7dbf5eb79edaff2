//! `albedo record audit`, from the duel to the alarm.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;

use albedo::prelude::*;
use albedo::testing::{ScriptedSession, identity};
use albedo::{GenerateRequest, ModelSessionExt};
use serde_json::{Value, json};

use crate::folders::forge;
use crate::run::{albedo, demo, error, stdout};

#[path = "../../examples/audit_calibrate/weights.rs"]
mod weights;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Audits the record in `folder` as one of the demo's models, on the CPU.
fn audit(folder: &Path, arguments: &[&str]) -> Output {
    let models = demo().join("models");
    let [king, challenger] = ["king", "challenger"].map(|side| models.join(side));
    let calibration = demo().join("audit/cpu-cpu-greedy.json");
    let mut all = vec!["record", "audit", text(folder), "--json"];
    all.extend(["--king", text(&king), "--challenger", text(&challenger)]);
    all.extend(["--calibration", text(&calibration)]);
    albedo(all.into_iter().chain(arguments.iter().copied()))
}

fn report(output: &Output) -> Value {
    let report = serde_json::from_slice(&output.stdout);
    assert!(report.is_ok(), "{}", error(output));
    report.expect("JSON")
}

#[test]
fn the_demo_duels_replies_are_its_models() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = place.path().join("duel");
    stdout(&albedo(["duel", "--demo", "--json", "--out", text(&folder)]));
    let output = audit(&folder, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", error(&output));
    let whole = report(&output);
    assert_eq!((&whole["alarm"], &whole["replies"]), (&json!(false), &json!(32)), "{whole}");
    assert_eq!(whole["statistics"], json!({ "mean": 0.0, "worst": 0.0 }), "the same device and build");
    assert_eq!(whole["without_tokens"], 0);
    let found =
        whole["power"].as_array().expect("a list").iter().find(|power| power["name"] == "another model");
    assert!(found.is_some_and(|power| power["found"].as_f64() > Some(0.99)), "{whole}");
    assert_eq!(report(&audit(&folder, &["--replies", "5"]))["replies"], 5);

    // Other tokens than those of the text.
    forge(&folder, |lines| {
        let reply = lines.iter_mut().find(|line| line["line"] == "reply").expect("a reply");
        let ids = reply["reply"]["completed"]["tokens"]["ids"].as_array_mut().expect("ids");
        let middle = ids.len() / 2;
        ids[middle] = json!(ids[middle].as_u64().expect("an id") + 1);
    });
    stdout(&albedo(["record", "verify", text(&folder)]));
    let output = audit(&folder, &[]);
    assert_eq!(output.status.code(), Some(3));
    let found = report(&output);
    assert_eq!(found["other_text"], json!([[0, "king"]]), "{found}");
    assert!(found["statistics"]["worst"].as_f64() > found["thresholds"]["worst"].as_f64(), "{found}");
}

/// The model in `folder`, with the king's text files, on the CPU.
async fn load(folder: PathBuf) -> Arc<dyn ModelSession> {
    let (registry, cx) = (Registry::linked().expect("plugins"), CallContext::new());
    let backend = registry.build::<dyn ModelBackend>("burn", json!({}), &cx).await.expect("builds");
    let source = ModelSource::new(folder).with_text_from(demo().join("models/king"));
    backend.load(&source, &cx).await.expect("loads")
}

/// The demo's models, the king first.
pub(crate) async fn models() -> [Arc<dyn ModelSession>; 2] {
    [load(demo().join("models/king")).await, load(demo().join("models/challenger")).await]
}

/// A model that says it is `claimed` and has the replies of `real`.
fn impostor(claimed: &Arc<dyn ModelSession>, real: &Arc<dyn ModelSession>) -> Arc<dyn ModelSession> {
    let (counter, real) = (Arc::clone(claimed), Arc::clone(real));
    let reply = move |request: GenerateRequest, cx: CallContext| {
        let real = Arc::clone(&real);
        async move { real.generate_one(request, &cx).await }
    };
    let session = ScriptedSession::waiting("impostor", reply).with_model(claimed.model().clone());
    Arc::new(session.counting(move |messages| counter.count_prompt_tokens(messages).expect("counts")))
}

/// A duel between `sides` on the demo's tasks, recorded in `folder`.
pub(crate) async fn duel(folder: &Path, sides: [Arc<dyn ModelSession>; 2]) {
    let (registry, cx) = (Registry::linked().expect("plugins"), CallContext::new());
    let [king, challenger] = sides.map(|session| Contestant::new(session, identity("impostor")));
    let tasks = json!({ "path": demo().join("tasks") });
    let tasks = registry.build::<dyn TaskSource>("parquet", tasks, &cx).await.expect("builds");
    let judge = registry.build::<dyn Judge>("reference-action", json!({}), &cx).await.expect("builds");
    let mut settings = DuelSettings { samples: 12, ..DuelSettings::default() };
    settings.rule = Rule::by_name("margin").expect("a rule");
    settings.generation.max_new_tokens = 96;
    let store = FileStore::create(folder).expect("creates");
    let duel = Duel::builder(king, challenger).tasks(tasks).judge(judge).settings(settings);
    duel.plan(&store, &cx).await.expect("plans").run(&store, &cx).await.expect("runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_of_other_models_and_of_rounded_weights_are_found() {
    let place = tempfile::tempdir().expect("a folder");
    let altered = |name: &str, how| {
        weights::alter(&demo().join("models/king"), &place.path().join(name), how).expect("writes")
    };
    let rounded = load(altered("int8", weights::How::Int8)).await;
    let noisy = load(altered("noise", weights::How::Error(0.05))).await;
    let [king, challenger] = models().await;
    for (name, sides, alarm) in [
        ("honest", [impostor(&king, &king), impostor(&challenger, &challenger)], false),
        ("exchanged", [impostor(&king, &challenger), impostor(&challenger, &king)], true),
        ("rounded", [impostor(&king, &rounded), impostor(&challenger, &challenger)], true),
        ("noisy", [impostor(&king, &noisy), impostor(&challenger, &challenger)], true),
    ] {
        let folder = place.path().join(name);
        duel(&folder, sides).await;
        stdout(&albedo(["record", "verify", text(&folder)]));
        let output = audit(&folder, &[]);
        let found = report(&output);
        assert_eq!(found["alarm"], alarm, "{name}: {found}");
        assert_eq!(output.status.code(), Some(if alarm { 3 } else { 0 }), "{name}");
    }
}
