//! Publishing: the commands, real buckets, and the page in a browser.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use albedo::backends::hubs::scripted::{Reply, Request, Server};
use albedo::plan::{DuelSettings, GenerationSettings};
use albedo::testing::{Rows, ScriptedJudge, ScriptedSession, small_duel};
use albedo::{CallContext, Duel, DuelBuilder, FileStore, Rule, Seed};
use serde_json::Value;

use crate::run::{albedo, command, error, root, stdout};

/// Runs `duel` and keeps its record in `folder`.
pub(crate) fn record(duel: &DuelBuilder, folder: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (store, cx) = (FileStore::create(folder).expect("a store"), CallContext::new());
        duel.plan(&store, &cx).await.expect("plans").run(&store, &cx).await.expect("runs");
    });
}

pub(crate) fn settings(seed: u64) -> DuelSettings {
    let rule = Rule::Margin { win_margin: 2.0 };
    let generation = GenerationSettings { max_new_tokens: 1024, ..GenerationSettings::default() };
    DuelSettings { samples: 8, rule, generation, seed: Seed::from(seed), ..DuelSettings::default() }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn digest(folder: &Path) -> String {
    let file = fs::read_to_string(folder.join("record.digest")).expect("reads");
    file.lines().next().expect("a line").to_owned()
}

#[test]
fn records_are_pushed_and_the_queue_tells_what_waits() {
    let folder = tempfile::tempdir().expect("a folder");
    let (duels, site) = (folder.path().join("duels"), folder.path().join("site"));
    for seed in 0..2 {
        record(&small_duel().settings(settings(seed)), &duels.join(seed.to_string()));
    }
    let push = ["publish", "push", text(&duels), "--to", text(&site)];
    assert!(stdout(&albedo(push)).contains("published 2 records"));
    assert!(stdout(&albedo(push)).contains("published 0 records"), "they are published already");
    let status: Value =
        serde_json::from_str(&stdout(&albedo(["publish", "status", text(&duels), "--json"]))).expect("JSON");
    assert_eq!((&status["published"], &status["lag_seconds"]), (&Value::from(2), &Value::from(0)));
    let watched = ["publish", "status", text(&duels), "--alert-after", "3600", "--json"];
    assert_eq!(albedo(watched).status.code(), Some(0));

    // One that is damaged is named, waits for somebody, and keeps nothing else.
    record(&small_duel().settings(settings(2)), &duels.join("2"));
    let blobs = duels.join("2/record.blobs");
    let whole = fs::read(&blobs).expect("reads");
    fs::write(&blobs, &whole[1..]).expect("writes");
    let damaged = albedo(push);
    assert_eq!(damaged.status.code(), Some(65), "{}", error(&damaged));
    assert!(error(&damaged).contains("record.blobs"), "{}", error(&damaged));
    let waits = stdout(&albedo(["publish", "status", text(&duels)]));
    let retry = format!("`albedo publish retry {} --to PLACE`", text(&duels));
    assert!(waits.contains("2 of 3 records") && waits.contains(&retry), "{waits}");
    let alerted = albedo(watched);
    assert_eq!(alerted.status.code(), Some(3), "somebody has to act");
    assert!(String::from_utf8_lossy(&alerted.stdout).contains("\"alert\": true"), "{alerted:?}");
    fs::write(&blobs, whole).expect("writes");
    let again = stdout(&albedo(["publish", "retry", text(&duels), "--to", text(&site)]));
    assert!(again.contains("published 1 record to"), "{again}");

    // Mistakes: one line, with what to do.
    for (arguments, code, words) in [
        (["publish", "push", text(&duels), "--to", "ftp://x"], 78, "s3://BUCKET/PREFIX"),
        (["publish", "push", text(&folder.path().join("none")), "--to", text(&site)], 66, "no such folder"),
        (["publish", "push", text(&duels), "--to", "s3://duels"], 77, "AWS_ACCESS_KEY_ID_FILE"),
    ] {
        let mut command = command(arguments);
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION"] {
            command.env_remove(name);
        }
        let output = command.output().expect("starts");
        assert_eq!(output.status.code(), Some(code), "{}", error(&output));
        assert!(error(&output).contains(words), "{}", error(&output));
    }
    let mut command = command(["publish", "push", text(&duels), "--to", "s3://duels"]);
    command.env("AWS_ACCESS_KEY_ID", "id-hush").env("AWS_SECRET_ACCESS_KEY", "hush-hush");
    let plain = command.env("AWS_ENDPOINT_URL", "http://example.com").output().expect("starts");
    let said =
        format!("{}{}", String::from_utf8_lossy(&plain.stdout), String::from_utf8_lossy(&plain.stderr));
    assert!(plain.status.code() == Some(78) && !said.contains("hush"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_that_a_fetched_record_is_verified_with_can_be_pasted() {
    let folder = tempfile::tempdir().expect("a folder");
    let [duels, site, out] = ["duels", "site", "my record"].map(|name| folder.path().join(name));
    let published = {
        let (duels, site) = (duels.clone(), site.clone());
        move || {
            record(&small_duel().settings(settings(0)), &duels.join("0"));
            stdout(&albedo(["publish", "push", text(&duels), "--to", text(&site)]));
            digest(&duels.join("0"))
        }
    };
    let digest = tokio::task::spawn_blocking(published).await.expect("published");
    let served = move |request: &Request| match fs::read(site.join(request.path.trim_start_matches('/'))) {
        Ok(bytes) => Reply::new(200, bytes),
        Err(_) => Reply::new(404, ""),
    };
    let server = Server::start(0, served).await.expect("listens");
    let (url, to) = (format!("{}/records/{digest}", server.url()), out.clone());
    let fetch = move || stdout(&albedo(["record", "fetch", &url, "--out", text(&to)]));
    let said = tokio::task::spawn_blocking(fetch).await.expect("fetched");
    assert!(said.contains(&format!("`albedo record verify '{}'`", out.display())), "{said}");
}

/// A reply that would like to run, and to be read backwards.
pub(crate) fn hostile(mark: &str) -> String {
    format!(
        "<script>document.title='{mark}';fetch('/{mark}')</script><img src=/{mark}.png onerror=\"fetch('/{mark}')\">\
         <svg onload=fetch('/{mark}')><iframe srcdoc=\"<script>parent.document.title='{mark}'</script>\"></iframe>\
         </pre></main><base href=//example.invalid/{mark}/><a href=\"javascript:fetch('/{mark}')\">\u{202e}drow\u{2066}\
         \u{200b}\u{7}"
    )
}

#[test]
fn a_browser_shows_the_numbers_of_the_record_and_runs_nothing() {
    let (folder, mark) = (tempfile::tempdir().expect("a folder"), "pwned");
    let (duels, site) = (folder.path().join("duels"), folder.path().join("site"));
    let texts = [hostile(mark), format!("{}, and more", hostile(mark))];
    let [king, challenger] = [("king", &texts[0]), ("challenger", &texts[1])]
        .map(|(name, text)| ScriptedSession::saying(name, text).contestant());
    let length = |reply: &str| (reply.len() as f64 / 1000.0).min(1.0);
    let duel = Duel::builder(king, challenger)
        .tasks(Arc::new(Rows::numbered(20)))
        .judge(Arc::new(ScriptedJudge::preferring("length", length)))
        .judge(Arc::new(ScriptedJudge::preferring("<b>brevity</b>", move |reply| 1.0 - length(reply))))
        .settings(settings(3));
    record(&duel, &duels.join("hostile"));
    stdout(&albedo(["publish", "push", text(&duels), "--to", text(&site)]));
    stdout(&albedo(["publish", "page", "--to", text(&site)]));
    let (record, digest) = (duels.join("hostile"), digest(&duels.join("hostile")));
    let shown = |name: &str, arguments: &[&str]| -> PathBuf {
        let path = folder.path().join(name);
        let output = albedo([&["record", "show", text(&record), "--json"][..], arguments].concat());
        fs::write(&path, stdout(&output)).expect("writes");
        path
    };
    let (show, sample) = (shown("show.json", &[]), shown("sample.json", &["--sample", "0"]));
    let judge = Command::new(root().join(".ci/page-judge"))
        .args([text(&site), &digest, text(&show), text(&sample), mark])
        .output()
        .expect("bash starts");
    let said = String::from_utf8_lossy(&judge.stdout).into_owned();
    assert!(judge.status.success(), "{said}{}", String::from_utf8_lossy(&judge.stderr));
    if said.starts_with("skipped") {
        eprintln!("no browser judged the page: {said}");
    } else {
        assert!(said.starts_with("judged"), "{said}");
    }
}

#[test]
fn buckets_of_real_servers_survive_kills() {
    if std::env::var_os("ALBEDO_CI_BUCKETS").is_none_or(|value| value != "1") {
        eprintln!("skipped: set ALBEDO_CI_BUCKETS=1, or run .ci/buckets");
        return;
    }
    let count = std::env::var("ALBEDO_BUCKET_RECORDS").map_or(50, |text| text.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a folder");
    for seed in 0..count {
        record(&small_duel().settings(settings(seed)), &folder.path().join(format!("all/{seed}")));
    }
    for server in ["moto", "s3rver", "s3s"] {
        // Each has most of them, a tenth is both's.
        let halves = [("one", 0..count * 11 / 20), ("other", count * 9 / 20..count)].map(|(name, seeds)| {
            let half = folder.path().join(format!("{server}-{name}"));
            for seed in seeds {
                let (from, to) = (folder.path().join(format!("all/{seed}")), half.join(seed.to_string()));
                fs::create_dir_all(&to).expect("makes");
                for name in ["record.jsonl", "record.blobs", "record.digest"] {
                    fs::copy(from.join(name), to.join(name)).expect("copies");
                }
            }
            half
        });
        let kills = (count / 5).to_string();
        let judge = Command::new(root().join(".ci/bucket-judge"))
            .args([server, env!("CARGO_BIN_EXE_albedo"), &kills, text(&halves[0]), text(&halves[1])])
            .output()
            .expect("bash starts");
        let said = String::from_utf8_lossy(&judge.stdout).into_owned();
        assert!(judge.status.success(), "{server}: {said}{}", String::from_utf8_lossy(&judge.stderr));
        eprint!("{server}: {said}");
        assert!(
            said.starts_with("skipped") || said.starts_with(&format!("judged {count} records")),
            "{said}"
        );
    }
}
