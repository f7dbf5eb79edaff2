//! What people read: colours only where they are wanted, no names of variants, and a
//! sentence first.

use std::process::Output;

use crate::run::{albedo, command, stdout};

fn duel(folder: &str, arguments: &[&str]) -> Output {
    let fixed = ["duel", "--demo", "--rule", "margin", "--samples", "2", "--judge", "protocol"];
    albedo(fixed.into_iter().chain(["--out", folder]).chain(arguments.iter().copied()))
}

#[test]
fn a_verdict_is_a_sentence_and_has_colour_only_where_it_is_wanted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let output = duel(&path("a"), &[]);
    let text = stdout(&output);
    assert!(!text.contains('\u{1b}'), "piped: {text:?}");
    assert!(text.contains("over 2 samples the judges prefer"), "{text}");
    assert!(text.contains("models/king: Qwen3ForCausalLM"), "{text}");
    let progress = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(progress.contains("decided by 1 judge,"), "{progress}");

    let coloured = stdout(&duel(&path("b"), &["--color", "always"]));
    assert!(coloured.contains("\u{1b}[1m"), "{coloured:?}");
    let plain = stdout(&albedo(["record", "show", &path("a"), "--color", "never"]));
    let explained = stdout(&albedo(["record", "show", &path("a"), "--explain"]));
    assert!(explained.starts_with(&plain), "{explained}");
    assert!(explained[plain.len()..].contains("order flips"), "{explained}");

    let sample = stdout(&albedo(["record", "show", &path("a"), "--sample", "0"]));
    for debug in ["Stop", "Length", "Some(", "KingHolds"] {
        assert!(!sample.contains(&format!("by {debug}")) && !sample.contains("Some("), "{debug}: {sample}");
    }
    assert!(sample.contains("tokens, ended by the model") || sample.contains("tokens, cut at"), "{sample}");
    let verified = stdout(&albedo(["record", "verify", &path("a")]));
    assert!(verified.contains("decided again: the "), "{verified}");
}

#[test]
fn errors_have_colour_if_it_is_forced_and_never_with_no_color() {
    let wrong = ["record", "show", "no-such-folder"];
    let error = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = command(wrong.iter().chain(arguments).copied());
        command.env_remove("NO_COLOR").env_remove("CLICOLOR_FORCE").envs(variables.iter().copied());
        String::from_utf8(command.output().expect("starts").stderr).expect("UTF-8")
    };
    assert!(error(&[], &[]).starts_with("error: failed to "));
    assert!(error(&[("CLICOLOR_FORCE", "1")], &[]).starts_with('\u{1b}'));
    assert!(error(&[], &["--color=always"]).starts_with('\u{1b}'));
    assert!(!error(&[("CLICOLOR_FORCE", "1")], &["--color=never"]).contains('\u{1b}'));
    assert!(!error(&[("NO_COLOR", "1")], &[]).contains('\u{1b}'));
    assert_eq!(error(&[], &[]).lines().count(), 1, "in one line where it is no terminal");
}

#[cfg(unix)]
#[test]
fn one_interrupt_at_a_question_ends_the_program() {
    let folder = tempfile::tempdir().expect("a folder");
    let init = command(["init", folder.path().to_str().expect("UTF-8")]);
    let Some((code, shown)) = crate::interrupted::interrupted_at(&init, "A number [1]: ") else { return };
    assert_eq!(code, Some(130), "{shown}");
    assert!(!shown.contains("once more to stop"), "{shown}");
    assert_eq!(std::fs::read_dir(folder.path()).expect("lists").count(), 0);
}

#[test]
fn help_answers_the_first_questions() {
    let help = |arguments: &[&str]| stdout(&albedo(arguments.iter().copied().chain(["--help"])));
    let duel = help(&["duel"]);
    for words in ["[king]", "name = ", "[backend]", "base_url", "--explain"] {
        assert!(duel.contains(words), "how do I duel two served models: {words}\n{duel}");
    }
    let all = help(&[]);
    assert!(all.contains("see why it was decided so") && all.contains("record show DIR --explain"), "{all}");
    let show = help(&["record", "show"]);
    assert!(show.contains("--explain") && show.contains("--sample"), "{show}");
    let judge = help(&["judge"]);
    for words in ["[[judges]]", "albedo new judge", "albedo plugins --role judge"] {
        assert!(judge.contains(words), "how do I add a judge: {words}\n{judge}");
    }
}
