use albedo_core::MessageRole;
use serde::Deserialize;

use super::*;

/// Templates of our own with what transformers makes of them; `templates.py` beside
/// them writes them.
const GOLDEN: &str = include_str!("../../../corpus/templates.jsonl");

#[derive(Debug, Deserialize)]
struct Case {
    template: String,
    /// Of each conversation; null where Jinja2 refuses.
    rendered: Vec<Option<String>>,
}

fn conversations() -> [Vec<Message>; 3] {
    use MessageRole::{Assistant, System, Tool, User};
    let turns =
        |turns: &[(MessageRole, &str)]| turns.iter().map(|&(role, text)| Message::new(role, text)).collect();
    [
        turns(&[(User, "Hello")]),
        turns(&[
            (System, "You repair projects."),
            (User, "Fix <it> & 'that' \"now\".\n\n"),
            (Assistant, "<think>\nwhy\n</think>\n\nDone."),
            (User, "  Thanks é 日本 😀 "),
        ]),
        turns(&[
            (User, ""),
            (Assistant, "a,b;c"),
            (Tool, "{\"k\": [1, 2.5, null]}"),
            (User, "naïve\tTAB\r\nline\u{2028}end"),
        ]),
    ]
}

fn rendered(template: &str, messages: &[Message]) -> Res<String> {
    let date = "2026-11-28".parse().expect("a date");
    let special = [("eos_token", "<|im_end|>"), ("pad_token", "<|endoftext|>")];
    Template::new(template, Some(date))?.render(messages, &special)
}

fn hello(template: &str) -> Res<String> {
    rendered(template, &conversations()[0])
}

#[test]
fn every_template_renders_as_transformers_renders_it() {
    let cases: Vec<Case> = GOLDEN.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(cases.len() >= 300);
    let (mut wrong, mut unsupported) = (Vec::new(), Vec::new());
    for Case { template, rendered: expected } in &cases {
        for (messages, expected) in conversations().iter().zip(expected) {
            match (rendered(template, messages), expected) {
                (Ok(ours), Some(theirs)) if ours == *theirs => {}
                (Err(_), None) => {}
                // Loud, and told apart from what transformers refuses.
                (Err(failed), Some(_)) if failed.message.contains("not supported") => {
                    unsupported.push(format!("{template:?}: {}", failed.message));
                }
                (ours, theirs) => wrong.push(format!("{template:?}\n  ours   {ours:?}\n  theirs {theirs:?}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} renderings differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(unsupported.len() < 10, "{} are not supported:\n{}", unsupported.len(), unsupported.join("\n"));
}

#[test]
fn what_is_not_supported_says_so() {
    for (template, words) in [
        ("{% do messages.pop() %}", "not supported"),
        ("{% include 'x' %}", "not supported"),
        ("{% block a %}{% endblock %}", "not supported"),
        ("{{ lipsum() }}", "`lipsum` is not supported"),
        ("{{ 1 | filesizeformat }}", "the filter `filesizeformat` is not supported"),
        ("{{ 1 is odder }}", "the test `odder` is not supported"),
        ("{{ 'a\\/b' }}", "the escape `\\/` is not supported"),
        ("{{ '\\U0001F600' }}", "the escape `\\U` is not supported"),
        ("{{ 'x'.__class__ }}", "`__class__`"),
        ("{{ '%(x)s' % {'y': 1} }}", "has no value"),
        ("{{ 'x'.encode() }}", "`encode` of such a text is not supported"),
        ("{% for m in messages recursive %}{% endfor %}", "a recursive loop is not supported"),
        ("{{ strftime_now('%Z') }}", "does not support `%Z`"),
        ("{{ messages }}{{ messages.append(1) }}", "would change a list"),
        ("{% trans %}x{% endtrans %}", "trans"),
    ] {
        let failed = hello(template).expect_err(template);
        assert!(failed.message.contains(words), "{template}: {failed:?}");
    }
    let failed = Template::new("{{ strftime_now('%Y') }}", None).expect("a template");
    assert!(failed.render(&conversations()[0], &[]).expect_err("no date").wants_date);
}

#[test]
fn errors_name_their_line() {
    assert_eq!(hello("a\nb{{ missing.x }}").expect_err("undefined").line, Some(2));
    assert_eq!(hello("a\n\n{% for %}").expect_err("malformed").line, Some(3));
}

/// Each is bounded before it takes memory, a stack, or time.
#[test]
fn hostile_templates_are_refused() {
    let doubled = format!("{{% set x = 'abcdefgh' %}}{}{{{{ x }}}}", "{% set x = x ~ x %}".repeat(60));
    let captured = format!("{{% set x = 'ab' %}}{}", "{% set x %}{{ x }}{{ x }}{% endset %}".repeat(60));
    let lists = format!("{{% set x = [1] %}}{}", "{% set x = x + x %}".repeat(60));
    for template in [
        &*"x".repeat(MAX_TEMPLATE + 1),
        &doubled,
        &captured,
        &lists,
        "{{ 'a' * 1000000000000 }}",
        "{{ [1] * 1000000000000 }}",
        "{{ 'a'.center(1000000000000) }}",
        "{{ 'a'.ljust(1000000000000) }}",
        "{{ '%999999999999d' % 1 }}",
        "{{ '{:>999999999999}'.format(1) }}",
        "{{ 'aaaa'.replace('', 'b' * 4000000) }}",
        "{{ range(100001) }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        &format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000)),
        &format!("{{{{ {}1 }}}}", "not ".repeat(15000)),
        &format!("{{{{ {}1 }}}}", "-".repeat(50000)),
        &format!("{{{{ 1{} }}}}", " + 1".repeat(15000)),
        &format!("{{{{ x{} }}}}", ".a".repeat(30000)),
        &format!("{{{{ x{} }}}}", "|e".repeat(30000)),
        &format!("{{{{ {}1{} }}}}", "[".repeat(20000), "]".repeat(20000)),
        &format!("{{{{ {}1 }}}}", "1 if 1 else ".repeat(5000)),
        &format!("{}{}", "{% if 1 %}".repeat(3000), "{% endif %}".repeat(3000)),
        &format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(5000)),
        &format!("{{{{ {}{{}}{} }}}}", "{1: ".repeat(5000), "}".repeat(5000)),
    ] {
        assert!(hello(template).is_err(), "{}", template.chars().take(60).collect::<String>());
    }
}

#[test]
fn long_conversations_render() {
    let template = "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}";
    let messages = vec![Message::new(MessageRole::User, "x".repeat(1000)); 2000];
    assert_eq!(rendered(template, &messages).expect("renders").len(), 2000 * (1000 + 12 + 5 + 11));
}
