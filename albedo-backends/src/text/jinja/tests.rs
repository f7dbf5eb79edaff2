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
        "{% set s = 'x' * 8000000 %}{{ ('%s' * 20000) % ((s,) * 20000) }}",
        "{% set s = 'x' * 8000000 %}{{ ('{0}' * 1000000).format(s) }}",
        "{% set s = 'x' * 8000000 %}{{ ('{0:s}' * 1000000).format(s) }}",
        "{{ ([1] * 20000) | tojson(indent='x' * 8000000) }}",
        "{{ ([1] * 20000) | tojson(separators=('x' * 8000000, ':')) }}",
        "{{ [{1: 1}] * 20000 | tojson(separators=(',', 'x' * 8000000)) }}",
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

/// What makes little and goes through much: each took hours before it was bounded.
#[test]
fn work_that_leaves_nothing_is_bounded() {
    let texts = "{% set s = 'x' * 1000000 %}{% set t = 'x' * 1000000 %}";
    for work in [
        "s | first",
        "s[-1]",
        "s[1:2]",
        "'y' in s",
        "s == t",
        "s < t",
        "s is lower",
        "s.find('y')",
        "s | trim('x')",
        "[s] == [t]",
        "s | truncate(3)",
        "[[s] * 1000, [t] * 1000] | unique | list | length",
    ] {
        let template = format!("{texts}{{% for i in range(99999) %}}{{% set x = {work} %}}{{% endfor %}}");
        let failed = hello(&template).expect_err(work);
        assert!(
            failed.message.contains("too many steps") || failed.message.contains("bytes"),
            "{work}: {failed:?}"
        );
    }
    for list in ["[1] * 200000", "([1] * 200000) | reverse"] {
        let renamed =
            format!("{{% set a = {list} %}}{{% for i in range(99999) %}}{{% set b = a %}}{{% endfor %}}");
        assert!(hello(&renamed).expect_err(list).message.contains("too many steps"), "{list}");
    }
    assert_eq!(hello("{{ [] * 9000000000000000000 }}").expect("renders"), "[]");
    // Lists of lists, each of which is one list a thousand times.
    let lists =
        "{% set a = [1] * 1000 %}{% set a = [a] * 1000 %}{% set b = [1] * 1000 %}{% set b = [b] * 1000 %}";
    for work in ["a == b", "a in [b]", "[b].count(a)", "[a, b] | unique | list"] {
        let template = format!("{lists}{{% for i in range(99999) %}}{{% set x = {work} %}}{{% endfor %}}");
        assert!(hello(&template).is_err(), "{work}");
    }
}

#[test]
fn values_that_hold_themselves_or_each_other_without_end_are_refused_or_let_go() {
    for template in [
        "{% set n = namespace(x=[]) %}{% for i in range(99999) %}{% set n.x = [n.x] %}{% endfor %}",
        "{% set n = namespace(x=[]) %}{% for i in range(99999) %}{% set n.x = {1: n.x} %}{% endfor %}",
        "{% set n = namespace(x=[1]) %}{% for i in range(99999) %}{% set n.x = n.x | batch(1) %}{% endfor %}",
        "{% set n = namespace(x=[]) %}{% for i in range(99999) %}{% set n.x = dict(y=n.x) %}{% endfor %}",
    ] {
        let failed = hello(template).expect_err(template);
        assert!(failed.message.contains("nested too deeply"), "{template}: {failed:?}");
    }
    let own = "{% set n = namespace(x=1) %}{% set n.own = n %}{% set n.list = [n] %}{{ n.own.own.x }}";
    assert_eq!(hello(own).expect("renders"), "1");
}

#[test]
fn what_has_no_order_is_refused_and_equal_keys_keep_theirs() {
    for template in [
        "{{ ([1, 'a', 2.5, 'b', none] * 50) | sort }}",
        "{{ ([1, 'nan' | float, 2] * 50) | sort }}",
        "{{ {1: 1, 'a': 2} | dictsort }}",
    ] {
        assert!(hello(template).is_err(), "{template}");
    }
    let pairs = "[[2, 'a'], [1, 'b'], [2, 'c'], [1, 'd'], [2, 'e']]";
    for (reverse, expected) in [("false", "bdace"), ("true", "acebd")] {
        let template = format!(
            "{{% for p in {pairs} | sort(reverse={reverse}, attribute=0) %}}{{{{ p[1] }}}}{{% endfor %}}"
        );
        assert_eq!(hello(&template).expect("renders"), expected);
    }
}

#[test]
fn the_largest_numbers_are_computed_or_refused() {
    let (most, least) = (i128::MAX, format!("(-{} - 1)", i128::MAX));
    for template in [
        format!("{{{{ {least} | abs }}}}"),
        format!("{{{{ -{least} }}}}"),
        format!("{{{{ {least} // -1 }}}}"),
        format!("{{{{ {least} % -1 }}}}"),
        format!("{{{{ {least} is divisibleby(-1) }}}}"),
        format!("{{{{ {most} + 1 }}}}"),
        format!("{{{{ range(0, 1, {least}) | list }}}}"),
        format!("{{{{ range({least}, {most}) | list }}}}"),
        format!("{{{{ range({most}, {least}, -{most}) | list }}}}"),
        format!("{{{{ 'abc' | truncate({}) }}}}", u64::MAX),
        format!("{{{{ 'abc' | truncate({most}, leeway={}) }}}}", u64::MAX),
        format!("{{{{ 'abc'.split('b', {}) }}}}", u64::MAX),
        format!("{{{{ 'abc'.rsplit(none, {}) }}}}", u64::MAX),
        format!("{{{{ 'abc'[{least}:{most}:{most}] }}}}{{{{ 'abc'[{least}] }}}}"),
        format!("{{{{ 'abc'.zfill({least}) }}}}{{{{ [1] * {least} }}}}"),
        format!("{{{{ '%d' % 1e300 }}}}{{{{ 1e300 | int }}}}{{{{ 1.5 | round({least}) }}}}"),
    ] {
        // Neither panics nor takes long.
        drop(hello(&template));
    }
}

#[test]
fn long_conversations_render() {
    let template = "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}";
    let messages = vec![Message::new(MessageRole::User, "x".repeat(1000)); 2000];
    assert_eq!(rendered(template, &messages).expect("renders").len(), 2000 * (1000 + 12 + 5 + 11));
    // A template that gathers messages before it writes them.
    let gathers = "{% set n = namespace(all=[]) %}{% for m in messages %}{% set n.all = n.all + [m] %}{% endfor %}{{ n.all | length }}";
    assert_eq!(rendered(gathers, &messages).expect("renders"), "2000");
}
