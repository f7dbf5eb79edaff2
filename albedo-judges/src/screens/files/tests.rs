use albedo_core::conformance::{PATIENCE, check_screen};
use serde_json::Value;

use super::*;
use crate::screens::testing::{Memory, safetensors};

const TENSOR: &str = r#"{"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#;

fn king() -> Memory {
    let files = [
        ("config.json", b"{}".to_vec()),
        ("tokenizer.json", b"{\"t\": 1}".to_vec()),
        ("tokenizer_config.json", b"{\"chat_template\": \"x\"}".to_vec()),
        ("model.safetensors", safetensors(TENSOR, 12)),
    ];
    Memory(files.map(|(name, bytes)| (name.to_owned(), bytes)).into())
}

fn with(name: &str, bytes: Vec<u8>) -> Memory {
    let mut files = king();
    files.0.insert(name.into(), bytes);
    files
}

async fn screen(submission: &Memory) -> Finding {
    let screen =
        FilesScreen::new(FilesConfig { max_size_ratio: 50.0, ..FilesConfig::default() }).expect("a screen");
    let subject = Subject::Files { submission, king: &king() };
    screen.inspect(subject, &CallContext::new()).await.expect("a finding")
}

/// The checks that `submission` breaks and all messages.
async fn broken(submission: &Memory) -> (Vec<String>, String) {
    let Finding::Rejected(evidence) = screen(submission).await else {
        panic!("not rejected: {submission:?}")
    };
    let problems = evidence["problems"].as_array().expect("problems");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let checks = problems.iter().map(|problem| text(&problem["check"])).collect();
    (checks, problems.iter().map(|problem| text(&problem["message"])).collect::<Vec<_>>().join("; "))
}

#[tokio::test]
async fn the_kings_own_files_are_clear_and_the_screen_conforms() {
    assert!(matches!(screen(&king()).await, Finding::Clear(_)));
    let screen = FilesScreen::new(FilesConfig::default()).expect("a screen");
    let (king, evil) = (king(), with("run.py", vec![]));
    let subjects = [&king, &evil]
        .map(|submission| Subject::Files { submission: submission as &dyn ModelFiles, king: &king });
    check_screen(&screen, &subjects, PATIENCE).await.expect("conforms");
}

#[tokio::test]
async fn every_rule_rejects_by_name() {
    let tensor = |json: &str, data| safetensors(&format!("{{{json}}}"), data);
    let a = &TENSOR[1..TENSOR.len() - 1];
    for (name, bytes, check, message) in [
        ("modeling.py", vec![], "allowlist", "no such file"),
        ("pytorch_model.bin", vec![], "allowlist", "no such file"),
        ("sub/model.safetensors", vec![], "allowlist", "no such file"),
        ("../escape.json", vec![], "name", "does not lie inside"),
        ("tokenizer.json", b"{\"t\": 2}".to_vec(), "as-king", "differs from the king's"),
        ("chat_template.jinja", vec![], "as-king", "the king has no such file"),
        ("README.md", vec![b'x'; 30_000], "size", "at most"),
        ("model.safetensors", vec![], "header", "too few for a header"),
        ("model.safetensors", safetensors(TENSOR, 11), "header", "the header promises"),
        ("model.safetensors", [&u64::MAX.to_le_bytes()[..], b"{}"].concat(), "header", "calls itself"),
        ("model.safetensors", [&(1_u64 << 33).to_le_bytes()[..], b"{}"].concat(), "header", "calls itself"),
        ("model.safetensors", tensor(&format!("{a},{a}"), 12), "header", "twice"),
        (
            "model.safetensors",
            tensor(&format!("{a},{}", a.replace("\"a\"", "\"b\"")), 12),
            "header",
            "overlap",
        ),
        (
            "model.safetensors",
            tensor(&a.replace("[0,12]", "[0,18446744073709551615]"), 12),
            "header",
            "takes 12",
        ),
        ("model.safetensors", tensor(&format!("\"a\":{}", "[".repeat(5000)), 12), "header", "expected"),
        ("model.safetensors", tensor(&a.replace("\"a\"", "\"b\""), 12), "tensors", "no such tensor"),
        ("model.safetensors", tensor(&a.replace("[2,3]", "[3,2]"), 12), "tensors", "the shape is [3, 2]"),
        (
            "model.safetensors",
            tensor(
                &format!(
                    "{a},\"lm_head.weight\":{{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[12,14]}}"
                ),
                14,
            ),
            "tensors",
            "no such tensor",
        ),
        ("model.safetensors", tensor(&a.replace("BF16", "I16"), 12), "dtype", "the type is I16"),
        ("model-00001-of-00002.safetensors", safetensors(TENSOR, 12), "tensors", "the tensor is in"),
        ("model-00001-of-00002.safetensors", safetensors("{}", 0), "index", "but no index"),
        (
            "model.safetensors.index.json",
            b"{\"weight_map\":{\"a\":\"other\"}}".to_vec(),
            "index",
            "puts the tensor into",
        ),
        ("model.safetensors.index.json", b"{\"weight_map\":{}}".to_vec(), "index", "does not name"),
        ("model.safetensors.index.json", b"[".to_vec(), "index", "EOF"),
    ] {
        let (checks, messages) = broken(&with(name, bytes)).await;
        assert!(
            checks.iter().any(|found| found == check),
            "{name}: {check} is not in {checks:?}: {messages}"
        );
        assert!(messages.contains(message), "{name}: `{message}` is not in: {messages}");
    }
    for name in ["tokenizer.json", "model.safetensors", "config.json"] {
        let mut files = king();
        files.0.remove(name);
        let (checks, _) = broken(&files).await;
        assert!(checks.iter().any(|check| check == "required"), "{name}: {checks:?}");
    }
}

#[tokio::test]
async fn pins_are_checked_and_settings_strict() {
    let pinned =
        [("config.json".to_owned(), Digest::of("{}")), ("LICENSE".to_owned(), Digest::of("x"))].into();
    let screen = FilesScreen::new(FilesConfig { pinned, ..FilesConfig::default() }).expect("a screen");
    let king = king();
    let subject = Subject::Files { submission: &king, king: &king };
    let Ok(Finding::Rejected(evidence)) = screen.inspect(subject, &CallContext::new()).await else {
        panic!("the licence is missing");
    };
    assert_eq!(evidence["problems_in_all"], 1);
    for config in [
        FilesConfig { max_size_ratio: 0.5, ..FilesConfig::default() },
        FilesConfig { dtypes: vec![], ..FilesConfig::default() },
        FilesConfig { allowed: vec!["***".into()], ..FilesConfig::default() },
    ] {
        assert_eq!(FilesScreen::new(config).expect_err("refused").kind(), ErrorKind::ConfigInvalid);
    }
}

#[tokio::test]
async fn a_broken_king_is_never_the_challengers_fault() {
    let screen = FilesScreen::new(FilesConfig::default()).expect("a screen");
    let (submission, king) = (king(), with("model.safetensors", vec![1; 9]));
    let subject = Subject::Files { submission: &submission, king: &king };
    let error = screen.inspect(subject, &CallContext::new()).await.expect_err("no finding");
    assert_eq!(error.fault(), Fault::Contestant(Side::King));
}

#[test]
fn forms_match_whole_names() {
    for (form, name, expected) in [
        ("model-*-of-*.safetensors", "model-00001-of-00002.safetensors", true),
        ("model-*-of-*.safetensors", "model-1/x-of-2.safetensors", false),
        ("model-*-of-*.safetensors", "model-of-.safetensors", false),
        ("config.json", "config.json", true),
        ("config.json", "config.json.py", false),
        ("*.md", "a/b.md", false),
        ("*.md", ".md", true),
    ] {
        assert_eq!(fits(form, name), expected, "{form} {name}");
    }
}
