//! `albedo new`, `albedo completions` and `albedo man`: what the program writes
//! for those who extend, install and type it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::run::{command, error, stdout};

fn albedo_in(folder: &Path, arguments: &[&str]) -> Output {
    command(arguments.iter().copied()).current_dir(folder).output().expect("albedo starts")
}

/// `.ci/own-crates` builds, tests and uses what is written.
#[test]
fn a_new_crate_is_written_once() {
    let folder = tempfile::tempdir().expect("a folder");
    for kind in ["judge", "screen", "backend"] {
        let name = format!("my-own-{kind}");
        stdout(&albedo_in(folder.path(), &["new", kind, &name, "--albedo", env!("CARGO_MANIFEST_DIR")]));
        let read = |path: &str| fs::read_to_string(folder.path().join(&name).join(path)).expect("a file");
        assert!(read("Cargo.toml").contains(env!("CARGO_MANIFEST_DIR")));
        assert!(read("src/lib.rs").contains(&format!("const NAME: &'static str = \"{name}\"")));
        assert!(read("src/main.rs").contains(&format!("use my_own_{kind} as _;")));

        let again = albedo_in(folder.path(), &["new", kind, &name]);
        assert_eq!(again.status.code(), Some(78));
        assert!(error(&again).contains("the folder exists"), "{}", error(&again));
    }
}

#[test]
fn names_that_cannot_work_are_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, why) in [
        ("../escape", "is not a name"),
        ("Upper", "is not a name"),
        ("match", "means something else"),
        ("serde", "means something else"),
        ("chat", "is a judge of this program"),
    ] {
        let output = albedo_in(folder.path(), &["new", "judge", name]);
        assert_eq!(output.status.code(), Some(78), "{name}");
        assert!(error(&output).contains(why), "{}", error(&output));
    }
    let output = albedo_in(folder.path(), &["new", "judge", "fine", "--albedo", "nowhere"]);
    assert_eq!(output.status.code(), Some(66), "{}", error(&output));
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

#[test]
fn every_shell_has_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = stdout(&crate::run::albedo(["completions", shell]));
        for word in ["calibrate", "max-new-tokens"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let script = stdout(&crate::run::albedo(["completions", "bash"]));
    // Longer than one argument may be.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("albedo.bash");
    fs::write(&file, script).expect("a script");
    let checked = Command::new("bash").arg("-n").arg(&file).output().expect("bash starts");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn every_command_has_a_manual_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man");
    stdout(&albedo_in(folder.path(), &["man", "man"]));
    let page = |name: &str| fs::read_to_string(pages.join(name)).expect(name);
    assert!(page("albedo.1").contains("malformed or has another digest"));
    assert!(page("albedo-duel.1").contains("resume"));
    assert!(page("albedo-record-verify.1").contains("regenerate"));
}
