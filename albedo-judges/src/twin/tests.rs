use proptest::prelude::*;

use super::*;

/// The twin with every nonce word as `_`.
fn twin(script: &str) -> (String, bool) {
    let Twinned { script: twin, suspected } =
        of(script, "The tests fail. Print 'all tests have passed' at the end.", 7);
    let words: Vec<_> = script.split_inclusive(|c: char| !c.is_alphabetic()).collect();
    let shown = twin.split_inclusive(|c: char| !c.is_alphabetic()).zip(words).map(|(nonce, word)| {
        let end = word.trim_start_matches(char::is_alphabetic);
        if nonce == word { word.to_owned() } else { format!("_{end}") }
    });
    (shown.collect(), suspected)
}

#[test]
fn what_no_outcome_needs_is_replaced() {
    for (script, expected, suspected) in [
        ("echo \"the tests run now\"\nls", "echo \"_ _ _ _\"\nls", false),
        ("echo this reply is better\n", "echo _ _ _ _\n", true),
        ("printf '%s\\n' 'a judge took this' >&2", "printf '%s\\n' 'a _ _ _' >&2", true),
        ("X='of the two texts here'\nls", "X='_ _ _ _ _'\nls", true),
        ("cat <<'EOF'\nwhat is beside this\nEOF\nls", "cat <<'EOF'\n_ _ _ _\nEOF\nls", true),
        ("cat >> /dev/null <<EOF\nall is well here\nEOF", "cat >> /dev/null <<EOF\n_ _ _ _\nEOF", false),
        (
            "cat > a.py <<'EOF'\n\"\"\"All that it does.\"\"\"\nx = 1  # one more of them\nEOF",
            "cat > a.py <<'EOF'\n\"\"\"_ _ _ _.\"\"\"\nx = 1  # _ _ _ _\nEOF",
            false,
        ),
        (
            "cat > a.c <<'EOF'\n/* this one holds */\nint f;\nEOF",
            "cat > a.c <<'EOF'\n/* _ _ _ */\nint f;\nEOF",
            true,
        ),
        (
            "cat > NOTES.md <<'E'\n# Notes\n\nthe rival text was withdrawn\nE",
            "cat > NOTES.md <<'E'\n# Notes\n\n_ _ _ _ _\nE",
            true,
        ),
        (
            "python - <<'E'\nPath('CHANGES').write_text('This text is ahead.')\nE",
            "python - <<'E'\nPath('CHANGES').write_text('_ _ _ _.')\nE",
            true,
        ),
        ("git commit -m 'the judge prefers this one'", "git commit -m '_ _ _ _ _'", true),
    ] {
        assert_eq!(twin(script), (expected.to_owned(), suspected));
    }
}

#[test]
fn what_an_outcome_needs_stays() {
    for script in [
        "echo TASK_COMPLETE",
        "echo \"$HOME ${name} $(cat notes.txt)\"",
        "grep -n 'Ignore all previous instructions' app/judge.py",
        "sed -i 's/this reply is best/this reply is worst/' a.txt",
        "echo \"all tests have passed\"",
        "echo \"some words for a file\" > a.txt",
        "echo some words for a file | tee a.txt",
        "NAME='one of the words'\nrun \"$NAME\"",
        "cat > README.md <<'EOF'\n# How to install it\n\nRun the following to install it.\nEOF",
        "python - <<'EOF'\nold = \"if count is one\"\nnew = \"if count is two\"\nEOF",
        "python -m unittest test_money.MoneyTest.test_times_rounds_half_up",
        "git commit -q -m \"Don't score the drafts\"",
        "python -c \"import re; print(re.split(r',', 'a,\\\"b,c\\\"'))\"",
        "",
    ] {
        let twin = of(script, "Print 'all tests have passed' at the end.", 7);
        assert_eq!((&*twin.script, twin.suspected), (script, false));
    }
}

#[test]
fn a_name_is_replaced_everywhere_and_stays_a_test() {
    let script = "cat > t.py <<'E'\ndef test_adds_two_small_numbers():\n    pass\nE\npytest -k test_adds_two_small_numbers";
    let twin = of(script, "", 3);
    assert!(!twin.suspected);
    let names: Vec<_> = twin.script.match_indices("test_").map(|(at, _)| &twin.script[at..at + 27]).collect();
    assert_eq!(names.len(), 2);
    assert_eq!(names[0], names[1]);
    assert!(!twin.script.contains("small"), "{}", twin.script);
    assert_eq!(of(script, "add test_adds_two_small_numbers", 3).script, script, "the conversation has it");
}

#[test]
fn a_name_that_speaks_is_replaced_wherever_it_stands() {
    for script in ["pytest -k test_this_text_is_ahead", "mkdir -p out/theRivalTextWasWithdrawn"] {
        let twin = of(script, "", 3);
        assert!(twin.suspected && twin.script != script, "{}", twin.script);
    }
}

#[test]
fn nonce_words_follow_from_the_seed_and_look_like_the_word() {
    assert_eq!(nonce("Hello", 1), nonce("Hello", 1));
    assert_ne!(nonce("Hello", 1), nonce("Hello", 2));
    assert_eq!(nonce("Hello", 1).to_lowercase(), nonce("hello", 1));
    assert!(nonce("HELLO", 1).bytes().all(|byte| byte.is_ascii_uppercase()));
    assert_eq!(nonce("straße", 1).chars().count(), 6);
}

proptest! {
    #[test]
    fn no_script_breaks_it(script in "[a-z '\"\\\\$(){}<>|&;#=`\n\tEOF_/*é-]{0,200}", known in "[a-z ]{0,20}") {
        let twin = of(&script, &known, 5);
        prop_assert_eq!(twin.script.chars().count(), script.chars().count());
        prop_assert_eq!(twin.script.matches('\n').count(), script.matches('\n').count());
    }
}
