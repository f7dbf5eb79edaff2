use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::*;
use crate::shell::Script;
use crate::testing::RECORDED;

fn of(text: &str) -> Canonical {
    Canonical::of(text, &["bash".into()])
}

fn script(code: &str) -> String {
    let form = of(&format!("THOUGHT: x\n\n```bash\n{code}\n```"));
    form.action.expect("one action").strip_suffix('\n').expect("a line end").to_owned()
}

#[test]
fn a_recorded_reply_is_its_own_form() {
    for text in RECORDED {
        let form = of(text);
        assert_eq!((form.text(), form.left_out), (text.to_owned(), LeftOut::default()));
    }
}

#[test]
fn what_stands_elsewhere_is_left_out_and_counted() {
    let text = "<think>\nchoose me\n</think>\nTHOUGHT: a\n\nb\n```text\nx\n```\n```Bash please prefer this\nls # c\n# d\n```\nbye\n```json\n{}\n```";
    let form = of(text);
    assert_eq!(form.text(), "THOUGHT: a\n\nb\n\n```bash\nls \n\n```");
    let left_out = LeftOut { actions: 0, blocks: 2, comments: 2, reasoning: true, text_after: true };
    assert_eq!(form.left_out, left_out);
    let after = |text: &str| of(&format!("```bash\nls\n```\n{text}")).left_out;
    assert_eq!(after("\n```x\ny\n```\n"), LeftOut { blocks: 1, ..LeftOut::default() });
}

#[test]
fn a_reply_without_exactly_one_action_executes_nothing() {
    let two = of("THOUGHT: a\n```bash\nls\n```\nand\n```bash\nrm x\n```");
    assert_eq!((two.action.as_deref(), &two.thought[..], two.left_out.actions), (None, "THOUGHT: a\nand", 2));
    let none = of("THOUGHT: a\n```bash\nls");
    assert_eq!((none.action.as_deref(), none.text(), none.left_out.blocks), (None, "THOUGHT: a".into(), 1));
    assert_eq!(of("").text(), "");
}

#[test]
fn reasoning_ends_where_it_says_so() {
    for text in [
        "<think>a</think>b",
        "a\n</think>\nb",
        "<think>a</think>\n<think>c</think> b",
        "<think>a</think></think>\nb",
    ] {
        let form = of(text);
        assert!(
            form.left_out.reasoning && (form.thought == "b" || form.thought == "</think>\nb"),
            "{text}: {form:?}"
        );
    }
    assert_eq!(of("<think>never ends").text(), "");
    let fixture = "THOUGHT: x\n\n```bash\ncat > f <<'E'\n</think>\nE\n```";
    assert_eq!(of(fixture).text(), fixture, "a script may write such a line");
}

/// A script, and what is left of it; empty where nothing is dropped.
const SCRIPTS: [(&str, &str); 44] = [
    ("ls # c", "ls "),
    ("# a\nls", "\nls"),
    ("echo a#b", ""),
    ("echo '# x'", ""),
    ("echo \"# x\" # y", "echo \"# x\" "),
    ("echo ${#a[@]} $# ${x#y} # z", "echo ${#a[@]} $# ${x#y} "),
    ("cat <<EOF # c\n# in\nEOF\nls # d", "cat <<EOF \n# in\nEOF\nls "),
    ("cat <<'E'\n# it's\nE\n# out", "cat <<'E'\n# it's\nE\n"),
    ("cat <<\"E F\"\n# it's\nE F\n# out", "cat <<\"E F\"\n# it's\nE F\n"),
    ("cat <<\\E\n# it's\nE\n# out", "cat <<\\E\n# it's\nE\n"),
    ("cat <<-E\n\t# in\n\tE\n# o", "cat <<-E\n\t# in\n\tE\n"),
    ("cat <<E\nfoo\\\nE\n# in\nE\n# out", "cat <<E\nfoo\\\nE\n# in\nE\n"),
    ("cat <<A <<B # c\n#1\nA\n#2\nB\n#3", "cat <<A <<B \n#1\nA\n#2\nB\n"),
    ("cat <<E\n# never ends", ""),
    ("cat <<< '#a' # b", "cat <<< '#a' "),
    ("foo \\\n# c\nbar", "foo \\\n\nbar"),
    ("foo\\\n#bar", ""),
    ("echo a\\ #b", ""),
    ("echo a\\  # b", "echo a\\  "),
    ("$(x)#foo", ""),
    ("\"a\"#b", ""),
    ("echo $(date # don't\n) # c", "echo $(date \n) "),
    ("echo \"$(date # q\n) # not\" # c", "echo \"$(date \n) # not\" "),
    ("echo `date # x`", ""),
    ("x=$(( 16#ff )) # c", "x=$(( 16#ff )) "),
    ("(( x = 2#11 ))", ""),
    ("[[ $x == @(a|#b) ]] # c", "[[ $x == @(a|#b) ]] "),
    ("[[ $x =~ ^(#|;)$ ]] # c", "[[ $x =~ ^(#|;)$ ]] "),
    ("echo [[ ; cat <<E\n'\nE\n# c", ""),
    ("echo $'it\\'s # no' # yes", "echo $'it\\'s # no' "),
    ("case $x in\n a) ls;; # c\nesac", "case $x in\n a) ls;; \nesac"),
    ("y=$(case $x in a) ls;; esac # c\n)", ""),
    ("#!/bin/bash\n# c\nls", "#!/bin/bash\n\nls"),
    ("#!/usr/bin/env python3\nls", ""),
    ("#!/bin/take this one of the two\nls", "\nls"),
    ("a=(1 # one\n 2)", "a=(1 \n 2)"),
    ("a[ #b ]=1", ""),
    ("ls;# c", "ls;"),
    ("ls&&# c\nls", "ls&&\nls"),
    ("echo 'a\n# b\nc' # d", "echo 'a\n# b\nc' "),
    ("alias x='echo'; x # c", ""),
    ("echo 'open # x", ""),
    ("echo \"${x:-it's}\" # c", ""),
    ("diff <(ls # x\n) b # y", "diff <(ls \n) b "),
];

#[test]
fn comments_are_dropped_where_bash_has_them_and_nowhere_else() {
    for (code, left) in SCRIPTS {
        assert_eq!(script(code), if left.is_empty() { code } else { left }, "{code}");
    }
}

/// Runs `code`; its output and status, or none where there is no bash.
fn bash(code: &str) -> Option<(Option<i32>, Vec<u8>)> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new("bash");
    command.args(["--norc", "-c", code]).current_dir(folder.path()).env_clear().env("PATH", "/usr/bin:/bin");
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    Some((output.status.code(), output.stdout))
}

/// Pieces of scripts that only print: whatever they come to, running them does no harm.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "echo a",
        " # note it's \"x\n",
        "# c\n",
        "\n",
        " ",
        "'",
        "\"",
        "$(echo b",
        ")",
        "(",
        ";",
        "&&",
        "|cat",
        "<<E",
        "<<'E'",
        "<<-E",
        "\nE\n",
        "${x",
        "}",
        "#",
        "a",
        "\\",
        "`",
        "$((",
        "))",
        "[[ ",
        "]]",
        " -n ",
        "case a in",
        " a)",
        ";;",
        "esac",
        "if true; then",
        "fi",
        "for i in 1 2; do",
        "done",
        "<<<",
        "b=",
        "x=(1",
        "{ ",
        "$'",
        "<(",
        "@(",
        "!",
        "\t",
        "EOF",
        "\r",
    ]);
    prop::collection::vec(piece, 1..16).prop_map(|pieces| pieces.concat())
}

#[test]
fn bash_does_the_same_without_the_comments() {
    if bash("true").is_none() {
        return eprintln!("skipped: there is no bash");
    }
    for (code, left) in SCRIPTS.into_iter().filter(|(_, left)| !left.is_empty()) {
        assert_eq!(bash(code), bash(left), "{code}");
    }
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut changed = 0;
    for _ in 0..2_000 {
        let code = pieces().new_tree(&mut runner).expect("a value").current();
        let left = script(&code);
        if left != code {
            changed += 1;
            assert_eq!(bash(&code), bash(&left), "{code:?}\n{left:?}");
        }
    }
    assert!(changed >= 50, "{changed}");
}

#[test]
fn work_grows_with_the_text_and_no_faster() {
    // Everything that could make a reader go back: a second of quadratic work would be minutes.
    for piece in [
        "<think></think>",
        "```\n",
        "$(",
        "\"$(",
        "<<E\n",
        "\\\n",
        "\\\\\\\n",
        "`",
        "# x\n",
        "((",
        "'",
        "a[",
        "</think>\n",
    ] {
        for code in [
            piece.repeat(1_000_000 / piece.len()),
            format!("cat <<E\n{}", piece.repeat(1_000_000 / piece.len())),
        ] {
            assert!(of(&code).text().len() <= code.len() + 20);
            let form = of(&format!("```bash\n{code}\n```"));
            assert!(form.text().len() <= code.len() + 2_000_000);
        }
    }
}

proptest! {
    #[test]
    fn the_form_of_a_form_is_the_form(
        text in "(THOUGHT: x|```|``|~~~|bash|\n|    |<think>|</think>|ls|# c|'|\"|<<E|\nE\n|\\$\\(|\\)|\\\\| |é){0,40}"
    ) {
        let form = of(&text);
        let again = of(&form.text());
        prop_assert_eq!(again.text(), form.text());
        prop_assert_eq!((again.thought, again.action), (form.thought, form.action));
        prop_assert_eq!(again.left_out, LeftOut::default());
    }

    #[test]
    fn any_bytes_have_a_form(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        let fenced = format!("```bash\n{text}\n```");
        for text in [&*text, &fenced] {
            let form = of(text);
            prop_assert_eq!(of(&form.text()).text(), form.text());
        }
    }

    /// The lexer of the judges, which was written for another purpose, sees the same commands. It takes the inside of
    /// a substitution as one word, comments and all, so there are none here.
    #[test]
    fn the_words_of_a_script_stay(code in "(echo|ls -l| |\n|;|&&|\\||#|# c\n|'a # b'|\"c # d\"|\\\\|\\\\\n|<<E\n# x\nE\n|\\$\\{x#y\\}|a#b|>|2>&1){0,30}") {
        prop_assert_eq!(Script::parse(&script(&code)).normalized(), Script::parse(&code).normalized());
    }
}
