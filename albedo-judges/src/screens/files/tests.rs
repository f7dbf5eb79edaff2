use albedo_core::conformance::{PATIENCE, check_files_screen};
use serde_json::Value;

use albedo_core::FilesScreen as _;

use super::*;
use crate::screens::listing::INDEX;
use crate::screens::testing::{Copied, Memory, safetensors};

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

async fn screen(submission: &dyn ModelFiles) -> Finding {
    let screen =
        FilesScreen::new(FilesConfig { max_size_ratio: 50.0, ..FilesConfig::default() }).expect("a screen");
    screen.inspect(submission, &king(), &CallContext::new()).await.expect("a finding")
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
    let subjects = [&king, &evil].map(|submission| [submission as &dyn ModelFiles, &king]);
    check_files_screen(&screen, &subjects, PATIENCE).await.expect("conforms");
}

#[tokio::test]
async fn headers_after_a_thousand_foreign_tensors_are_not_read() {
    let many: Vec<_> = (0..=MORE_TENSORS + 1)
        .map(|number| format!("\"x{number}\":{{\"dtype\":\"BF16\",\"shape\":[0],\"data_offsets\":[0,0]}}"))
        .collect();
    let mut files =
        with("model-00001-of-00002.safetensors", safetensors(&format!("{{{}}}", many.join(",")), 0));
    files.0.remove("model.safetensors");
    files.0.insert("model-00002-of-00002.safetensors".into(), b"no header at all".to_vec());
    let screen = FilesScreen::new(FilesConfig { max_size_ratio: 1e6, ..FilesConfig::default() });
    let found = screen.expect("a screen").inspect(&files, &king(), &CallContext::new()).await;
    let Finding::Rejected(evidence) = found.expect("a finding") else { panic!("not rejected") };
    let problems = evidence["problems"].to_string();
    assert!(problems.contains("at most 1001 are read"), "{problems}");
    assert!(!problems.contains("calls itself"), "the next header was read: {problems}");
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
        ("chat_template.jinja", vec![], "as-king", "the chat template differs from the king's"),
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
async fn what_an_incomplete_download_looks_like_is_the_submissions_only_if_it_was_handed_in_so() {
    let whole = safetensors(TENSOR, 12);
    let without = |name: &str| {
        let mut files = king();
        files.0.remove(name);
        files
    };
    let sharded = |index: &[u8]| {
        let mut files = without("model.safetensors");
        let other = r#"{"b":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}"#;
        files.0.insert("model-00002-of-00002.safetensors".into(), safetensors(other, 2));
        files.0.insert("model.safetensors.index.json".into(), index.to_vec());
        files
    };
    let index =
        br#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n".to_vec();
    let mut cut = vec![
        without("tokenizer.json"),
        without("model.safetensors"),
        without("config.json"),
        with("tokenizer.json", b"{\"t\"".to_vec()),
        with("tokenizer.json", vec![]),
        with("tokenizer.json", pointer.clone()),
        with("model.safetensors", pointer),
        with("model.safetensors.index.json", index[..20].to_vec()),
    ];
    // Cut at every byte, the file is incomplete and nothing else.
    cut.extend((0..whole.len()).map(|end| with("model.safetensors", whole[..end].to_vec())));
    for files in cut {
        assert!(matches!(screen(&files).await, Finding::Rejected(_)), "published: {files:?}");
        let Finding::Unverified(evidence) = screen(&Copied(files.clone())).await else {
            panic!("a copy: {files:?}")
        };
        assert_eq!((&evidence["fault"], &evidence["retryable"]), (&"infrastructure".into(), &true.into()));
    }

    // Only a copy has what download tools leave.
    for (name, unfinished) in [
        ("model.safetensors.incomplete", true),
        (".cache/huggingface/download/x.json.incomplete", true),
        (".cache/huggingface/download/x.json.metadata", false),
        (".git/config", false),
        ("._model.safetensors", false),
        (".DS_Store", false),
        (".ipynb_checkpoints/config-checkpoint.json", false),
        (".nfs0000000001", false),
    ] {
        let files = with(name, vec![]);
        assert!(matches!(screen(&files).await, Finding::Rejected(_)), "published: {name}");
        match screen(&Copied(files)).await {
            Finding::Unverified(_) => assert!(unfinished, "{name}"),
            Finding::Clear(_) => assert!(!unfinished, "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }

    // What no download does to a file is rejected in a copy too.
    let mut both = with("model.safetensors", whole[..20].to_vec());
    both.0.insert("modeling.py".into(), vec![]);
    for files in [
        both,
        with("model.safetensors", [&whole[..], &[0]].concat()),
        with("tokenizer.json", b"{\"t\": 2}".to_vec()),
        // The tensor `b` is not the king's, whatever is in the part that is missing.
        sharded(index),
    ] {
        assert!(matches!(screen(&Copied(files.clone())).await, Finding::Rejected(_)), "{files:?}");
    }
}

#[tokio::test]
async fn a_part_that_did_not_come_is_not_held_against_a_copy() {
    let two = r#"{"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}"#;
    let other = r#"{"b":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}"#;
    let index =
        br#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    let mut king = king();
    king.0.remove("model.safetensors");
    king.0.insert("model-00001-of-00002.safetensors".into(), safetensors(two, 12));
    king.0.insert("model-00002-of-00002.safetensors".into(), safetensors(other, 2));
    king.0.insert(INDEX.into(), index.to_vec());
    let screen = FilesScreen::new(FilesConfig::default()).expect("a screen");
    let cx = CallContext::new();
    let all = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX];
    for missing in [&all[..1], &all[1..2], &all[2..], &all[1..], &all[..2], &all[..]] {
        let mut files = king.clone();
        for name in missing {
            files.0.remove(*name);
        }
        let copy = Copied(files.clone());
        let finding = screen.inspect(&copy, &king, &cx).await.expect("a finding");
        assert!(matches!(finding, Finding::Unverified(_)), "{missing:?}: {finding:?}");
        let finding = screen.inspect(&files, &king, &cx).await.expect("a finding");
        assert!(matches!(finding, Finding::Rejected(_)), "{missing:?}: {finding:?}");
    }
}

#[tokio::test]
async fn pins_are_checked_and_settings_strict() {
    let pinned =
        [("config.json".to_owned(), Digest::of("{}")), ("LICENSE".to_owned(), Digest::of("x"))].into();
    let screen = FilesScreen::new(FilesConfig { pinned, ..FilesConfig::default() }).expect("a screen");
    let king = king();
    let Ok(Finding::Rejected(evidence)) = screen.inspect(&king, &king, &CallContext::new()).await else {
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
    let error = screen.inspect(&submission, &king, &CallContext::new()).await.expect_err("no finding");
    assert_eq!(error.fault(), Fault::Contestant(Side::King));
    let king = Copied(with("model.safetensors", vec![1; 7]));
    let error = screen.inspect(&submission, &king, &CallContext::new()).await.expect_err("no finding");
    assert_eq!((error.fault(), error.is_retryable()), (Fault::Infrastructure, true), "{error}");
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

/// Qwen3-1.7B is stored with the head beside the embedding that it is tied to; `save_pretrained`
/// leaves it out.
#[tokio::test]
async fn a_tied_head_may_be_repeated_or_left_out() {
    const EMBEDDED: &str =
        r#""model.embed_tokens.weight":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}"#;
    let model = |tied: bool, head: Option<&str>| {
        let mut files = with("config.json", format!("{{\"tie_word_embeddings\":{tied}}}").into_bytes());
        let weights = match head {
            Some(head) => {
                let head = format!("\"lm_head.weight\":{{{head},\"data_offsets\":[12,24]}}");
                safetensors(&format!("{{{EMBEDDED},{head}}}"), 24)
            }
            None => safetensors(&format!("{{{EMBEDDED}}}"), 12),
        };
        files.0.insert("model.safetensors".into(), weights);
        files
    };
    let screen = FilesScreen::new(FilesConfig::default()).expect("a screen");
    let cx = CallContext::new();
    let inspect = async |submission: &Memory, king: &Memory| {
        screen.inspect(submission, king, &cx).await.expect("a finding")
    };
    let repeated = Some("\"dtype\":\"BF16\",\"shape\":[2,3]");
    for (submissions, kings) in [(None, repeated), (repeated, None), (repeated, repeated), (None, None)] {
        let found = inspect(&model(true, submissions), &model(true, kings)).await;
        assert!(matches!(found, Finding::Clear(_)), "{submissions:?}, {kings:?}: {found:?}");
        // Where nothing ties it, it is a tensor like any other.
        let found = inspect(&model(false, submissions), &model(false, kings)).await;
        assert_eq!(matches!(found, Finding::Clear(_)), submissions == kings, "{found:?}");
    }
    for head in ["\"dtype\":\"BF16\",\"shape\":[3,2]", "\"dtype\":\"F16\",\"shape\":[2,3]"] {
        let found = inspect(&model(true, Some(head)), &model(true, None)).await;
        assert!(matches!(found, Finding::Rejected(_)), "{head}: {found:?}");
    }
    let found = inspect(&model(false, repeated), &model(true, None)).await;
    assert!(matches!(found, Finding::Rejected(_)), "it is another head: {found:?}");
}
