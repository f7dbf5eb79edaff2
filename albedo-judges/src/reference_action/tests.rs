use albedo_core::ErrorKind;
use proptest::prelude::*;

use super::*;
use crate::testing::{EDIT, HAND_IN, RECORDED, SEARCH, TEST, check_laws, comparison, score};

fn judge() -> ReferenceActionJudge {
    ReferenceActionJudge::new(ReferenceActionConfig::default()).expect("default settings")
}

fn reply(command: &str) -> String {
    format!("THOUGHT: x\n\n```bash\n{command}\n```")
}

/// The quality of `command` where `recorded` is recorded.
async fn quality(recorded: &str, command: &str, metric: Metric) -> f64 {
    let request = comparison(&reply(recorded), &reply(command), "nothing");
    2.0 * score(&judge(), &request, metric).await - 1.0
}

#[tokio::test]
async fn the_recorded_reply_ties_with_itself_and_beats_garbage_in_every_metric() {
    for recorded in RECORDED {
        for garbage in [
            "",
            "ok",
            "the the the the",
            "```bash\n```",
            "THOUGHT: x\n\n```bash\nqwv zzkx blorb\n```",
            "THOUGHT: x\n\n```bash\n)(;;&&|| ' \" $( `\n```",
        ] {
            for metric in judge().profile().metrics {
                assert_eq!(score(&judge(), &comparison(recorded, recorded, recorded), metric).await, 0.5);
                let lead = score(&judge(), &comparison(recorded, recorded, garbage), metric).await;
                assert!(lead > 0.5, "{metric} of {recorded} against {garbage}: {lead}");
            }
        }
    }
}

#[tokio::test]
async fn spelling_makes_no_difference() {
    let recorded = "grep -n -A 5 \"def join\" pointer.py 2>&1 | tail -n 3";
    for command in [
        "cd /workspace/slashref && grep -n -A 5 'def join' pointer.py 2>&1 | tail -n 3",
        "# look\ngrep   -n -A 5 def\\ join \\\n  2>&1 pointer.py |\n tail -n 3;",
    ] {
        for metric in judge().profile().metrics {
            assert_eq!(quality(recorded, command, metric).await, 1.0, "{metric} of {command}");
        }
    }
}

#[tokio::test]
async fn correctness_is_the_edit_distance() {
    assert_eq!(quality("cat abcd", "cat abxy", Metric::Correctness).await, 0.75);
    assert_eq!(quality("ls", "cat abcd", Metric::Correctness).await, 0.0);
}

#[tokio::test]
async fn grounding_tells_invented_names() {
    let recorded = "cat pointer.py";
    assert_eq!(quality(recorded, "cat pointer.py", Metric::Grounding).await, 1.0);
    // Another file that is there: known, but not the recorded one.
    assert_eq!(quality(recorded, "cat README.md", Metric::Grounding).await, 0.5);
    assert_eq!(quality(recorded, "cat poniter.py", Metric::Grounding).await, 0.0);
    // A program's own variables are not invented, a garbled file is.
    let rewrite = |file: &str| format!("python - <<'EOF'\nneu = open(\"{file}\").read()\nEOF");
    assert_eq!(quality(recorded, &rewrite("pointer.py"), Metric::Grounding).await, 1.0);
    assert_eq!(quality(recorded, &rewrite("ponter.py"), Metric::Grounding).await, 0.0);
}

#[tokio::test]
async fn progress_is_the_kind_of_step_and_what_is_called() {
    for (recorded, command, expected) in [
        ("cat pointer.py", "nl -ba pointer.py", 0.5),
        ("nl -ba pointer.py | sed -n '1,9p'", "sed -n '1,9p' pointer.py", 0.5 + 1.0 / 3.0),
        ("git diff", "git diff --stat", 1.0),
        ("git diff", "git checkout -- pointer.py", 0.0),
        ("sed -i 's/a/b/' pointer.py", "sed -n '1,9p' pointer.py", 0.0),
        ("echo TASK_COMPLETE", "echo hello", 0.5),
        ("./check", "./build", 0.0),
    ] {
        let progress = quality(recorded, command, Metric::Progress).await;
        assert!((progress - expected).abs() < 1e-9, "{command} for {recorded}: {progress}");
    }
}

#[tokio::test]
async fn efficiency_is_length_for_the_same_kind_of_step() {
    assert_eq!(quality("cat abcd", "cat abcdefgh.txt", Metric::Efficiency).await, 0.5);
    assert_eq!(quality("cat abcd", "cat a", Metric::Efficiency).await, 1.0);
    assert_eq!(quality("cat abcd", "git diff", Metric::Efficiency).await, 0.0);
}

#[tokio::test]
async fn a_reply_without_exactly_one_action_runs_nothing() {
    for metric in judge().profile().metrics {
        for text in ["cat pointer.py", "```bash\ncat pointer.py", "```bash\nls\n```\n```bash\nls\n```"] {
            assert_eq!(
                score(&judge(), &comparison(SEARCH, text, ""), metric).await,
                0.5,
                "{metric} of {text}"
            );
        }
    }
}

#[tokio::test]
async fn it_abstains_without_a_recorded_action() {
    let answer =
        judge().compare(&comparison("done", TEST, EDIT), &CallContext::new()).await.expect("answers");
    assert!(matches!(answer, Assessment::Abstained { .. }), "{answer:?}");
}

#[tokio::test]
async fn a_cancelled_call_is_refused() {
    let cx = CallContext::new();
    cx.cancel();
    let error = judge().compare(&comparison(TEST, TEST, EDIT), &cx).await.expect_err("cancelled");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[test]
fn distances_of_long_texts_are_bounded() {
    let text = |c: char, length: usize| vec![c; length];
    assert_eq!(distance(&text('a', 5000), &text('b', 3000)), 5000);
    assert_eq!(distance(&text('a', 5000), &text('a', 3000)), 2000);
    let long = |middle: &str| [text('x', 4000), middle.chars().collect(), text('y', 4000)].concat();
    assert_eq!(distance(&long("kitten"), &long("sitting")), 3);
}

proptest! {
    #[test]
    fn distances_are_symmetric_and_bounded(first in "[ab]{0,60}", second in "[ab]{0,60}") {
        let [first, second]: [Vec<char>; 2] = [&first, &second].map(|text| text.chars().collect());
        let there = distance(&first, &second);
        prop_assert_eq!(there, distance(&second, &first));
        prop_assert_eq!(there == 0, first == second);
        prop_assert!(there <= first.len().max(second.len()));
    }

    #[test]
    fn any_command_is_judged(first in any::<String>(), second in "(cat |sed -i |\\| |&& |<<EOF|\n|EOF|'|\"|\\$\\(|\\)|`|\\\\|# |a=b |x.py |2>|>&|é){0,40}") {
        for recorded in [EDIT, HAND_IN] {
            check_laws(&judge(), &comparison(recorded, &reply(&first), &reply(&second)));
        }
    }
}
