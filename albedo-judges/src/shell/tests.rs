use proptest::prelude::*;

use super::*;

fn words(source: &str) -> Vec<Vec<String>> {
    Script::parse(source).commands.into_iter().map(|command| command.words).collect()
}

#[test]
fn quotes_escapes_and_comments_are_read() {
    for (source, expected) in [
        ("ls", vec![vec!["ls"]]),
        ("grep \"def join\" 'a b' c\\ d", vec![vec!["grep", "def join", "a b", "c d"]]),
        (r#"echo "a \"b\" \$c \d" 'e\f'"#, vec![vec!["echo", "a \"b\" $c \\d", "e\\f"]]),
        ("echo a'b'\"c\" '' $'x'", vec![vec!["echo", "abc", "", "x"]]),
        ("ls # a comment | cat\ncat x#y", vec![vec!["ls"], vec!["cat", "x#y"]]),
        ("ls \\\n  -la", vec![vec!["ls", "-la"]]),
        ("A=1 B='2 3' ls A=4", vec![vec!["ls", "A=4"]]),
        ("if test -f x; then cat x; fi", vec![vec!["test", "-f", "x"], vec!["cat", "x"], vec!["fi"]]),
        ("(cd x && ls)", vec![vec!["cd", "x"], vec!["ls"]]),
        (
            "echo $(ls | wc -l) \"$(cat 'a)b')\" ${x:-$(y)}",
            vec![vec!["echo", "$(ls | wc -l)", "$(cat 'a)b')", "${x:-$(y)}"]],
        ),
        ("ls\r\ncat x\r\n", vec![vec!["ls"], vec!["cat", "x"]]),
        ("echo 'open", vec![vec!["echo", "open"]]),
    ] {
        assert_eq!(words(source), expected, "{source}");
    }
}

#[test]
fn separators_join_commands() {
    let script = Script::parse("a && b ||\n c | d; e & f\ng |& h\n\n");
    let after: Vec<_> = script.commands.iter().map(|command| command.after).collect();
    assert_eq!(after, ["", "&&", "||", "|", ";", "&", ";", "|"]);
}

#[test]
fn redirections_and_here_documents_are_read() {
    let script = Script::parse("cat <<'EOF' > out.txt 2>&1\n$x `y`\nEOF\ncat <<-END &>> log\n\tz\n\tEND\nls");
    let read: Vec<Vec<_>> = script
        .commands
        .iter()
        .map(|command| {
            let parts = |r: &Redirection| format!("{}|{}|{}", r.operator, r.target, r.body);
            command.redirections.iter().map(parts).collect()
        })
        .collect();
    assert_eq!(read, [vec!["<<||$x `y`\n", ">|out.txt|", "2>&|1|"], vec!["<<||z\n", "&>>|log|"], vec![]]);
    assert_eq!(Script::parse("cat <<EOF\nnever ends").commands[0].redirections[0].body, "never ends\n");
}

#[test]
fn programs_are_found_in_substitutions() {
    let script = Script::parse("for f in $(find . | head); do X=1 `which sed` -n 1p \"$f\" <(cat $f); done");
    assert_eq!(script.programs(), ["`which sed`", "find", "head", "which", "cat"]);
}

#[test]
fn one_spelling_for_equal_commands() {
    let normalized = |source| Script::parse(source).normalized();
    assert_eq!(normalized("a 'b' # c\n"), normalized("a   b;"));
    assert_eq!(normalized("cd /workspace/x && ls"), normalized("ls"));
    assert_ne!(normalized("cd sub && ls"), normalized("ls"));
    assert_ne!(normalized("cd /workspace/x || ls"), normalized("ls"));
    assert_ne!(normalized("a 'b c'"), normalized("a b c"));
    assert_ne!(normalized("a && b"), normalized("a || b"));
}

#[test]
fn steps_are_understood() {
    use StepKind::{Announce, Edit, Look, Other, Review, Run, SetUp};
    for (source, kind, call, operands) in [
        ("ls", Look, "ls", vec![]),
        ("grep -n -A 5 'def join' pointer.py", Look, "grep", vec!["5", "def join", "pointer.py"]),
        ("grep -rn x --include=*.py .", Look, "grep", vec!["x", "*.py", "."]),
        ("sed -n 1,9p a.py", Look, "sed", vec!["1,9p", "a.py"]),
        ("sed -Ei.bak s/a/b/ a.py", Edit, "sed -i", vec!["s/a/b/", "a.py"]),
        ("sed -e 's/i/j/' a.py", Look, "sed", vec!["s/i/j/", "a.py"]),
        ("cat x > y.txt", Edit, "cat", vec!["x", "y.txt"]),
        ("cat x 2> /dev/null", Look, "cat", vec!["x"]),
        ("python3.11 -m unittest -q test_a", Run, "python -m unittest", vec!["test_a"]),
        ("python -m pytest x", Run, "pytest", vec!["x"]),
        ("python -m pip install x", SetUp, "pip install", vec!["x"]),
        ("/usr/bin/python3 a.py", Run, "python", vec!["a.py"]),
        ("python -c 'print(1)'", Run, "python", vec![]),
        ("python - <<E\nf.write_text('x')\nE", Edit, "python", vec!["-"]),
        ("git diff --stat", Review, "git diff", vec![]),
        ("git checkout -- a.py", Edit, "git checkout", vec!["a.py"]),
        ("env A=1 timeout 5 pytest", Run, "pytest", vec![]),
        ("./tool a", Other, "tool", vec!["a", "./tool"]),
        ("echo TASK_COMPLETE", Announce, "echo TASK_COMPLETE", vec!["TASK_COMPLETE"]),
    ] {
        let script = Script::parse(source);
        let steps = script.steps();
        let [step] = steps.as_slice() else { panic!("{source}: {steps:?}") };
        assert_eq!((step.kind, step.call.as_str(), &step.operands), (kind, call, &operands), "{source}");
    }
    assert_eq!(Script::parse("cd sub && export A=1; B=2").steps(), []);
    assert_eq!(Script::parse("python -c 'x' <<< y").steps()[0].code, ["x"]);
}

#[test]
fn hostile_nesting_is_bounded() {
    for unit in ["$(", "`", "\"$(", "<(", "${", "(", "<<a ", "'", "\\", "2>", "$((", "\n<<"] {
        let script = Script::parse(&unit.repeat(20_000));
        assert!(script.normalized().len() <= 4 * unit.len() * 20_000, "{unit}");
    }
}

proptest! {
    #[test]
    fn any_text_is_read(source in any::<String>(), shell in "(cat |\\| |&&|;|<<-?E|\n|E\n|'|\"|\\$\\(|\\)|`|\\\\|#|a=b |x |2>|>&|[({})]|\\$\\{){0,60}") {
        for source in [source, shell] {
            let script = Script::parse(&source);
            prop_assert_eq!(script.is_empty(), script.commands.is_empty());
            prop_assert!(script.steps().len() <= script.commands.len());
            prop_assert!(script.programs().iter().all(|program| !KEYWORDS.contains(program)));
        }
    }

    #[test]
    fn quoting_is_undone(words in proptest::collection::vec("[^\0\r']{0,12}", 1..6)) {
        let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
        let source = format!("run {}", quoted.join(" "));
        prop_assert_eq!(&Script::parse(&source).commands[0].words[1..], words.as_slice());
    }
}
