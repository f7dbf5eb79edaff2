use std::path::PathBuf;
use std::sync::LazyLock;

use albedo_core::MessageRole;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// What published templates do, in few lines: look ahead through a reversed
/// list, keep what they find in a namespace, strip and split with Python's
/// methods, test what may be undefined, refuse by `raise_exception`.
const TEMPLATE: &str = "\
{%- set ns = namespace(found=false, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- if not ns.found and message.role == 'user' and not message.content.startswith('<tool>') %}
        {%- set ns.found = true %}
        {%- set ns.last = (messages|length - 1) - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'system' and not loop.first %}
        {{- raise_exception('the system speaks first') }}
    {%- endif %}
    {%- set content = message.content %}
    {%- if message.thoughts is defined and message.thoughts is not none %}
        {%- set content = message.thoughts + content %}
    {%- elif message.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {%- if loop.index0 > ns.last %}
        {{- '<|im_start|>' + message.role + '+\\n' + content.strip('\\n') + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if tools %}{{ tools }}{%- endif %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
";

fn demo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/demo/models/king")
}

/// A folder with the demo's tokenizer and its configuration after `change`.
fn folder(change: impl FnOnce(&mut Value)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "generation_config.json"] {
        std::fs::copy(demo().join(name), folder.path().join(name)).unwrap();
    }
    let config = std::fs::read(demo().join("tokenizer_config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    change(&mut config);
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    folder
}

fn refusal(change: impl FnOnce(&mut Value)) -> String {
    ChatText::load(folder(change).path(), None).unwrap_err().to_string()
}

fn with_template(template: &str) -> Result<ChatText> {
    ChatText::load(folder(|config| config["chat_template"] = json!(template)).path(), None)
}

fn conversation(turns: &[(MessageRole, &str)]) -> Vec<Message> {
    turns.iter().map(|&(role, content)| Message::new(role, content)).collect()
}

#[test]
fn templates_render_as_python_renders_them() {
    use MessageRole::{Assistant, System, Tool, User};
    let text = with_template(TEMPLATE).unwrap();
    // The expected texts are Jinja2's, with `trim_blocks` and `lstrip_blocks`.
    for (turns, expected) in [
        (
            &[(System, "s"), (User, "  a\nb  ")][..],
            "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\n  a\nb  <|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            &[(User, "u"), (Assistant, "<think>x</think>\n\nyes"), (Tool, "\nout\n"), (User, "<tool>t")][..],
            "<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant+\nyes<|im_end|>\n\
             <|im_start|>tool+\nout<|im_end|>\n<|im_start|>user+\n<tool>t<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            &[(User, "{{ 7 * 7 }} é <b>&'\""), (Assistant, ""), (User, "")][..],
            "<|im_start|>user\n{{ 7 * 7 }} é <b>&'\"<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n\
             <|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n",
        ),
    ] {
        assert_eq!(text.render(&conversation(turns)).unwrap(), expected);
    }
    let error = text.render(&conversation(&[(User, "u"), (System, "s")])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataInvalid);
    assert!(error.message().starts_with("the system speaks first in line"), "{error}");
}

#[test]
fn the_demo_text_round_trips() {
    let text = ChatText::load(&demo(), None).unwrap();
    assert_eq!((text.end_of_turn(), text.stop_ids(), text.vocab_size()), (4091, &[4091][..], 4096));
    let ids = text.encode_prompt(&conversation(&[(MessageRole::User, "naïve 日本 \u{0}")])).unwrap();
    assert_eq!(
        text.decode(&ids).unwrap(),
        "<|im_start|>user\nnaïve 日本 \u{0}<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(text.decode(&[]).unwrap(), "");
    assert_eq!(text.decode(&[4_000_000]).unwrap(), "");
}

#[test]
fn a_template_may_stand_in_its_own_file_or_be_one_of_several() {
    let named = json!([{"name": "tools", "template": "no"}, {"name": "default", "template": "yes"}]);
    let folder = folder(|config| config["chat_template"] = named);
    let message = conversation(&[(MessageRole::User, "u")]);
    let text = ChatText::load(folder.path(), None).unwrap();
    assert_eq!(text.render(&message).unwrap(), "yes");
    std::fs::write(folder.path().join("chat_template.jinja"), "{{ bos_token }}|{{ eos_token }}").unwrap();
    let other = ChatText::load(folder.path(), None).unwrap();
    assert_eq!(other.render(&message).unwrap(), "|<|im_end|>", "no token is an empty text");
    assert_ne!(text.template_digest(), other.template_digest());
    assert_eq!(text.tokenizer_digest(), other.tokenizer_digest());
}

#[test]
fn every_configured_stop_id_counts_once() {
    let folder = folder(|_| {});
    std::fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [4091, 4089]}"#)
        .unwrap();
    assert_eq!(ChatText::load(folder.path(), None).unwrap().stop_ids(), [4089, 4091]);
    // Without the file, transformers takes them from `config.json`.
    std::fs::remove_file(folder.path().join("generation_config.json")).unwrap();
    assert_eq!(ChatText::load(folder.path(), None).unwrap().stop_ids(), [4091]);
    std::fs::write(folder.path().join("config.json"), r#"{"eos_token_id": [4091, 4093]}"#).unwrap();
    assert_eq!(ChatText::load(folder.path(), None).unwrap().stop_ids(), [4091, 4093]);
    std::fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": 4089}"#).unwrap();
    assert_eq!(ChatText::load(folder.path(), None).unwrap().stop_ids(), [4089, 4091]);
    std::fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": "stop"}"#).unwrap();
    assert!(ChatText::load(folder.path(), None).unwrap_err().message().contains("malformed"));
}

#[test]
fn text_files_that_do_not_fit_are_refused() {
    for (change, expected) in [
        (json!({"chat_template": "<|turn|>"}), "writes `<|turn|>`, which the tokenizer does not have"),
        (json!({"chat_template": null}), "there is no chat template"),
        (json!({"chat_template": "{% for %}"}), "line 1"),
        (
            json!({"chat_template": "{{ strftime_now('%Y') }}"}),
            "today's date (`strftime_now`), and none was given in line 1",
        ),
        (
            json!({"chat_template": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"}),
            "it takes too many steps",
        ),
        (json!({"eos_token": null}), "there is no `eos_token`"),
        (json!({"eos_token": {"content": "<|done|>"}}), "does not have the `eos_token`, `<|done|>`"),
        (json!({"eos_token": 3}), "malformed"),
    ] {
        let message = refusal(|config| {
            for (key, value) in change.as_object().unwrap() {
                config[key] = value.clone();
            }
        });
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn missing_and_broken_files_are_named() {
    let folder = folder(|_| {});
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let error = ChatText::load(folder.path(), None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DataInvalid);
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    assert_eq!(ChatText::load(folder.path(), None).unwrap_err().kind(), ErrorKind::NotFound);
}

/// Qwen3's own tokenizer and template against Jinja2's renderings, in the
/// folder that `.ci/qwen3-text` fills.
#[test]
#[ignore = "needs the published files: run .ci/qwen3-text"]
fn qwen3s_own_template_renders_byte_for_byte() {
    #[derive(Deserialize)]
    struct Case {
        messages: Vec<Message>,
        rendered: String,
        ids: Vec<u32>,
    }
    let folder =
        PathBuf::from(std::env::var_os("ALBEDO_QWEN3_TEXT").expect("ALBEDO_QWEN3_TEXT names the folder"));
    let text = ChatText::load(&folder, None).unwrap();
    assert_eq!(text.vocab_size(), 151_669);
    let cases: Vec<Case> =
        serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    assert!(cases.len() >= 10);
    for case in cases {
        assert_eq!(text.render(&case.messages).unwrap(), case.rendered);
        assert_eq!(text.encode_prompt(&case.messages).unwrap(), case.ids);
        assert_eq!(text.decode(&case.ids).unwrap(), case.rendered);
    }
}

/// What words are made of: letters with and without accents, other scripts, digits,
/// signs, spaces of every kind, contractions, tokens by their names.
fn fragment() -> impl Strategy<Value = String> {
    let fixed = [
        "the",
        "Answer",
        "I'M",
        "'s",
        "don't",
        "é",
        "e\u{301}",
        "n\u{303}o",
        "한국어",
        "日本",
        "42",
        "7",
        " ",
        "  ",
        "   ",
        "\t",
        "\n",
        " \n",
        "\r\n\n",
        "!",
        "...",
        "->",
        "\u{a0}",
        "\u{2003}",
        "👍🏽",
        "<|im_start|>",
        "<|im_end|>",
        "<|im_",
        "ÿ",
        "x",
        "Z",
    ];
    prop_oneof![
        4 => proptest::sample::select(fixed.to_vec()).prop_map(str::to_owned),
        2 => "[a-zA-Z]{1,8}",
        2 => Just(" ".to_owned()),
        1 => any::<char>().prop_map(String::from),
    ]
}

proptest! {
    #[test]
    fn pieces_have_the_tokens_of_the_whole(
        text in proptest::collection::vec(fragment(), 0..60).prop_map(|all| all.concat()),
        least in 1_usize..40,
    ) {
        static MODEL: LazyLock<ChatText> = LazyLock::new(|| ChatText::load(&demo(), None).unwrap());
        let model = &*MODEL;
        prop_assert!(model.in_pieces);
        let pieces = pieces(&text, least);
        prop_assert_eq!(pieces.concat(), text.clone());
        let ids: Vec<u32> = pieces.into_iter().flat_map(|piece| model.encode(piece).unwrap()).collect();
        prop_assert_eq!(ids, model.encode(&text).unwrap());
    }
}

#[test]
fn a_long_text_has_the_tokens_of_the_whole() {
    let model = ChatText::load(&demo(), None).unwrap();
    let text = "Which of these two answers is the better one, and why?\n\n    fn main() {}\n".repeat(200);
    assert!(pieces(&text, PIECE).len() > 5);
    assert_eq!(model.encode_reply(&text).unwrap(), model.encode(&text).unwrap());
}

#[test]
fn a_tokenizer_with_other_words_reads_a_text_whole() {
    let read = || -> Value {
        serde_json::from_slice(&std::fs::read(demo().join("tokenizer.json")).unwrap()).unwrap()
    };
    assert!(may_be_cut(&read()));
    let changes: [fn(&mut Value); 6] = [
        |json| json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(r"\S+\s*"),
        |json| json["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = json!(true),
        |json| json["pre_tokenizer"] = Value::Null,
        |json| json["normalizer"] = json!({"type": "Lowercase"}),
        |json| json["model"]["dropout"] = json!(0.1),
        |json| json["added_tokens"][0]["lstrip"] = json!(true),
    ];
    for change in changes {
        let mut json = read();
        change(&mut json);
        assert!(!may_be_cut(&json));
    }
}

/// The demo's text with this `step` of its tokenizer.
fn with_step(key: &str, step: Value) -> Result<ChatText> {
    let folder = folder(|_| {});
    let mut tokenizer: Value =
        serde_json::from_slice(&std::fs::read(demo().join("tokenizer.json")).unwrap()).unwrap();
    tokenizer[key] = step;
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    ChatText::load(folder.path(), None)
}

#[test]
fn a_post_processor_that_names_another_type_is_what_it_is() {
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let step = |kind: &str, single: &[&Value]| json!({ "type": kind, "single": single, "pair": [], "special_tokens": {}, "processors": [] });
    let expected = ChatText::load(&demo(), None).unwrap().encode_reply("a text").unwrap();
    for kind in ["ByteLevel", "Sequence", "TemplateProcessing"] {
        for single in [&[][..], &[&text, &text]] {
            let error = with_step("post_processor", step(kind, single)).unwrap_err();
            assert!(error.message().contains("post-processor"), "{error}");
        }
        let once = with_step("post_processor", step(kind, &[&text])).unwrap();
        assert_eq!(once.encode_reply("a text").unwrap(), expected);
    }
}

#[test]
fn steps_that_multiply_a_text_are_refused_before_they_run() {
    let double = json!({ "type": "none", "pattern": { "String": "<" }, "content": "<<" });
    let bytes = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false });
    let metaspace =
        json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
    for (key, list, step) in [
        ("normalizer", "normalizers", double.clone()),
        ("normalizer", "normalizers", json!({ "type": "ByteLevel" })),
        ("pre_tokenizer", "pretokenizers", bytes),
        ("decoder", "decoders", double),
        ("decoder", "decoders", json!({ "type": "BPEDecoder", "suffix": "" })),
        ("decoder", "decoders", json!({ "type": "WordPiece", "prefix": "##", "cleanup": false })),
        ("pre_tokenizer", "pretokenizers", metaspace),
    ] {
        let error = with_step(key, json!({ "type": "Sequence", list: vec![step; 55] })).unwrap_err();
        assert!(error.message().contains("times as long"), "{error}");
    }
}

#[test]
fn steps_without_end_are_refused_before_they_run() {
    for (key, list, step) in [
        ("normalizer", "normalizers", json!({ "type": "Lowercase" })),
        ("pre_tokenizer", "pretokenizers", json!({ "type": "Digits", "individual_digits": true })),
        ("decoder", "decoders", json!({ "type": "Fuse" })),
    ] {
        for (count, is_refused) in [(1, false), (65, true), (100_000, true)] {
            let loaded = with_step(key, json!({ "type": "Sequence", list: vec![step.clone(); count] }));
            let error = loaded.err().map(|error| error.to_string());
            let is_about_it = error.as_ref().is_some_and(|error| error.contains("may have 64"));
            assert_eq!(is_about_it, is_refused, "{key}: {error:?}");
        }
    }
}

#[test]
fn tokens_are_bytes_if_the_decoder_says_so_once() {
    // The second `type` has the tokenizer ask what the members fit: a decoder with a suffix.
    let folder = folder(|_| {});
    let tokenizer = std::fs::read_to_string(demo().join("tokenizer.json")).unwrap();
    let mut file: Value = serde_json::from_str(&tokenizer).unwrap();
    file["decoder"] = json!("the decoder");
    let decoder = r#"{"type":"ByteLevel","type":"ByteLevel","suffix":"zzz"}"#;
    let file = file.to_string().replace("\"the decoder\"", decoder);
    std::fs::write(folder.path().join("tokenizer.json"), file).unwrap();
    assert!(!ChatText::load(folder.path(), None).unwrap().in_bytes);
    assert!(ChatText::load(&demo(), None).unwrap().in_bytes);
}
