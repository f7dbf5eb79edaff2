//! The report of records: what the command writes, refuses, and shows in a browser.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use albedo::testing::{Rows, ScriptedJudge, ScriptedSession, completion, identity, model_info, small_duel};
use albedo::{Contestant, Duel, Identity};
use serde_json::Value;

use crate::published::{hostile, record, settings, text};
use crate::run::{albedo, error, root, stdout};

/// The JSON in the element `id` of a report.
fn embedded(report: &str, id: &str) -> Value {
    let begin = format!("<script type=\"application/json\" id=\"{id}\">");
    let (_, rest) = report.split_once(&begin).expect(id);
    let (json, _) = rest.split_once("</script>").expect("an end");
    assert!(!json.contains(['<', '>', '&']), "{id} can end its element");
    serde_json::from_str(json).expect("JSON")
}

/// A duel whose replies are hostile, and differ from task to task in who is better; so are the facts about models, backend
/// and judges, as in a record that somebody forged.
fn hostile_duel(folder: &Path, mark: &str) {
    let turned = |text: &str| format!("{text}\u{202e}drow\u{2066}\u{200b}");
    let backend = Identity { version: turned("1"), ..identity(&turned("scripted")) };
    let judge_of = |name: &str| Identity { version: turned("1"), ..identity(name) };
    let side = |name: &str, odd: bool| {
        let hostile = hostile(mark);
        let mut model = model_info(name).with_dtype(turned("bf16"));
        model.architecture = turned("Scripted");
        let session = ScriptedSession::new(name, move |request| {
            // Both sides have one seed, so that each sample is better for one of them; the
            // king says in its own words that it is.
            let words = match (request.seed % 2 == 1, odd) {
                (true, true) => "I wrote a patch, and all the tests pass.",
                (false, false) => "I wrote a patch, ran it, and looked at its output.",
                _ => "ls",
            };
            Ok(completion(&format!("{hostile} {words}")))
        });
        Contestant::new(Arc::new(session.with_model(model)), backend.clone())
    };
    let quality = |reply: &str| (reply.len() as f64 / 1000.0).min(1.0);
    let brevity = ScriptedJudge::preferring("brevity", move |reply| 0.4 - 0.4 * quality(reply));
    let duel = Duel::builder(side("king", true), side("challenger", false))
        .tasks(Arc::new(Rows::numbered(20)))
        .judge(Arc::new(ScriptedJudge::preferring("length", quality).with_identity(judge_of("length"))))
        .judge(Arc::new(brevity.with_identity(judge_of(&turned("<b>brevity</b>")))))
        .settings(settings(3));
    record(&duel, folder);
}

#[test]
fn the_report_has_the_numbers_of_the_record_and_is_one_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (duel, report) = (folder.path().join("duel"), folder.path().join("duel.html"));
    record(&small_duel().settings(settings(1)), &duel);
    let written = stdout(&albedo(["record", "report", text(&duel), "--out", text(&report)]));
    assert!(written.contains("duel.html: 1 record"), "{written}");
    let page = fs::read_to_string(&report).expect("reads");
    let shown: Value =
        serde_json::from_str(&stdout(&albedo(["record", "show", text(&duel), "--json"]))).expect("JSON");
    let reported = embedded(&page, "record-0");
    for key in ["digest", "plan", "verdict", "analysis"] {
        assert_eq!(reported[key], shown[key], "{key}");
    }
    let verified: Value =
        serde_json::from_str(&stdout(&albedo(["record", "verify", text(&duel), "--json"]))).expect("JSON");
    assert_eq!(reported["claims"], verified["records"][0]["claims"]);
    assert_eq!(reported["costs"]["judges"][0]["calls"], 16, "from the journal: eight samples in both orders");
    let texts = embedded(&page, "record-0-texts-0");
    assert_eq!(texts.as_array().map(Vec::len), Some(8));

    // One file: nothing that a browser would ask for.
    let head = page.split_once("<style>").expect("styles").0;
    assert!(
        head.contains("default-src 'none'") && !page.contains(" src=") && !page.contains("<link"),
        "{head}"
    );

    let markdown = stdout(&albedo(["record", "report", text(&duel), "--format", "markdown"]));
    let margin = format!("{:+.2} points", shown["verdict"]["margin"].as_f64().expect("a number"));
    let digest = shown["digest"].as_str().expect("a text");
    for part in [margin.as_str(), digest, "| **Panel** |", "| **recomputed** | panel, rule and verdict |"] {
        assert!(markdown.contains(part), "{part}: {markdown}");
    }
}

#[test]
fn several_records_are_rated_and_what_does_not_verify_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let side = |text: &str| ScriptedSession::saying(text, text).contestant();
    for (king, challenger) in [("a", "aaa"), ("aaa", "aaaaa"), ("aaaaa", "a")] {
        let judge = ScriptedJudge::preferring("length", |reply| (reply.len() as f64 / 20.0).min(1.0));
        let duel = Duel::builder(side(king), side(challenger))
            .tasks(Arc::new(Rows::numbered(20)))
            .judge(Arc::new(judge))
            .settings(settings(1));
        record(&duel, &path(king));
    }
    let records: Vec<PathBuf> = ["a", "aaa", "aaaaa"].map(path).into();
    let report = path("report.html");
    let mut arguments = vec!["record", "report"];
    arguments.extend(records.iter().map(|record| text(record)));
    arguments.extend(["--out", text(&report), "--json"]);
    let said: Value = serde_json::from_str(&stdout(&albedo(arguments.clone()))).expect("JSON");
    let models = said["ratings"]["models"].as_array().expect("models");
    let rating = |at: usize| models[at]["rating"].as_f64().expect("a number");
    assert!(models.len() == 3 && rating(0) < rating(1) && rating(1) < rating(2), "{said}");
    assert!(said["ratings"]["fit"]["p_value"].as_f64().is_some_and(|p| p > 0.05), "no circle: {said}");
    let page = fs::read_to_string(&report).expect("reads");
    assert_eq!(embedded(&page, "study")["ratings"], said["ratings"]);

    // Another file is not replaced, a report is.
    let notes = path("notes.html");
    fs::write(&notes, "<p>mine").expect("writes");
    let refused = albedo(["record", "report", text(&records[0]), "--out", text(&notes)]);
    assert!(!refused.status.success() && error(&refused).contains("--out FILE"), "{}", error(&refused));
    assert_eq!(fs::read_to_string(&notes).expect("reads"), "<p>mine");
    stdout(&albedo(arguments));

    // So it is with Markdown.
    let (mine, markdown) = (path("README.md"), path("report.md"));
    fs::write(&mine, "# Mine\n").expect("writes");
    let write = |out: &Path| {
        albedo(["record", "report", text(&records[0]), "--format", "markdown", "--out", text(out)])
    };
    let refused = write(&mine);
    assert_eq!(refused.status.code(), Some(78), "{}", error(&refused));
    assert_eq!(fs::read_to_string(&mine).expect("reads"), "# Mine\n");
    for _ in 0..2 {
        stdout(&write(&markdown));
    }
    let written = fs::read_to_string(&markdown).expect("reads");
    let printed = stdout(&albedo(["record", "report", text(&records[0]), "--format", "markdown"]));
    assert!(written.starts_with("<!-- ") && written.ends_with(&format!("-->\n\n{printed}")), "{written}");

    // A record that is altered, or none.
    let lines = records[1].join("record.jsonl");
    let whole = fs::read_to_string(&lines).expect("reads");
    fs::write(&lines, whole.replace("\"challenger\"", "\"king\"")).expect("writes");
    let altered = albedo(["record", "report", text(&records[1]), "--out", text(&path("altered.html"))]);
    assert_eq!(altered.status.code(), Some(65), "{}", error(&altered));
    assert!(!path("altered.html").exists());
    let none = albedo(["record", "report", text(&path("none")), "--format", "markdown"]);
    assert_eq!(none.status.code(), Some(66), "{}", error(&none));
    let both = albedo(["record", "report", text(&records[0]), "--format", "markdown", "--json"]);
    assert!(!both.status.success() && error(&both).contains("--out FILE"), "{}", error(&both));
}

#[test]
fn a_browser_reads_the_report_and_runs_nothing_of_it() {
    let (folder, mark) = (tempfile::tempdir().expect("a folder"), "pwned");
    let (duel, report) = (folder.path().join("duel"), folder.path().join("report.html"));
    hostile_duel(&duel, mark);
    stdout(&albedo(["record", "report", text(&duel), "--out", text(&report)]));
    let page = fs::read_to_string(&report).expect("reads");
    assert!(!page.contains(&hostile(mark)), "a hostile reply is in the page as it was written");
    let shown = |name: &str, arguments: &[&str]| -> PathBuf {
        let path = folder.path().join(name);
        let output = albedo([&["record", "show", text(&duel), "--json"][..], arguments].concat());
        fs::write(&path, stdout(&output)).expect("writes");
        path
    };
    let (show, sample) = (shown("show.json", &[]), shown("sample.json", &["--sample", "0"]));
    let judge = Command::new(root().join(".ci/report-judge"))
        .args([text(&report), text(&show), text(&sample), mark])
        .output()
        .expect("bash starts");
    let said = String::from_utf8_lossy(&judge.stdout).into_owned();
    assert!(judge.status.success(), "{said}{}", String::from_utf8_lossy(&judge.stderr));
    if said.starts_with("skipped") {
        eprintln!("no browser judged the report: {said}");
    } else {
        assert!(said.starts_with("judged"), "{said}");
    }
}
