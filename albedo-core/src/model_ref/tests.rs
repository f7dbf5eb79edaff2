use proptest::prelude::*;
use serde_json::json;

use super::*;

const SHA256: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn message(text: &str) -> String {
    let error = text.parse::<HubRef>().expect_err(text);
    assert_eq!((error.kind(), error.fault()), (ErrorKind::ConfigInvalid, Fault::Operator), "{error}");
    assert!(error.hint().is_some() && !error.to_string().contains('\n'), "{error}");
    error.to_string()
}

#[test]
fn both_hubs_have_a_form() {
    for (text, hub, repository, canonical) in [
        (format!("owner/model@sha256:{SHA256}"), "oci", "owner/model", true),
        (format!("oci:owner/model@sha256:{SHA256}"), "oci", "owner/model", false),
        (format!("ghcr.io/owner/model@sha256:{SHA256}"), "oci", "ghcr.io/owner/model", true),
        (format!("oci:localhost:5000/a/b@sha256:{SHA256}"), "oci", "localhost:5000/a/b", true),
        (format!("hf:Qwen/Qwen3-4B@{COMMIT}"), "hf", "Qwen/Qwen3-4B", true),
        (format!("hf:123/model@{COMMIT}"), "hf", "123/model", true),
        (format!("mirror:one@sha256:{SHA256}"), "mirror", "one", true),
        (format!("mirror:one/two/Three@{COMMIT}"), "mirror", "one/two/Three", true),
    ] {
        let reference: HubRef = text.parse().expect(&text);
        assert_eq!((reference.hub(), reference.repository()), (hub, repository));
        assert_eq!(reference.to_string() == text, canonical, "{reference}");
        assert_eq!(reference.to_string().parse::<HubRef>().expect("reads back"), reference);
        assert_eq!(serde_json::from_value::<HubRef>(json!(text)).expect("reads"), reference);
    }
}

#[test]
fn what_can_be_moved_is_refused_with_the_remedy() {
    for text in ["owner/model", "owner/model:latest", "hf:owner/model", "model:latest", "hf:gpt2"] {
        let message = message(text);
        assert!(message.contains("names no revision") && message.contains("pin it: `@sha256:`"), "{message}");
    }
    for text in [
        "hf:owner/model@main".to_owned(),
        "hf:owner/model@0123456".to_owned(),
        "owner/model@latest".to_owned(),
        format!("owner/model@sha512:{SHA256}"),
        format!("owner/model@{SHA256}"),
        format!("owner/model@sha256:{COMMIT}"),
        format!("owner/model@sha256:{SHA256}@main"),
    ] {
        let message = message(&text);
        assert!(message.contains("can be moved") && message.contains("pin it: `@sha256:`"), "{message}");
    }
    let message = message(&format!("owner/model:v1@sha256:{SHA256}"));
    assert!(message.contains("leave the tag out"), "{message}");
}

#[test]
fn hostile_references_are_refused() {
    let long = "a".repeat(300);
    for (repository, expected) in [
        ("../model", "no part of"),
        ("owner/..", "no part of"),
        ("owner/a..b", "no part of"),
        ("/model", "no part of"),
        ("owner//model", "no part of"),
        ("owner/", "no part of"),
        ("", "no part of"),
        ("owner/-model", "no part of"),
        ("owner/.git", "no part of"),
        ("owner/mo\0del", "\\u{0}"),
        ("owner/m\u{43e}del", "\\u{43e}"),
        ("owner/model\u{202e}", "\\u{202e}"),
        ("owner/model\u{200b}", "\\u{200b}"),
        ("owner/mo del", "cannot be in"),
        ("owner\\model", "cannot be in"),
        ("owner/model?x=1", "cannot be in"),
        ("owner/model#x", "cannot be in"),
        ("owner/%2e%2e", "cannot be in"),
        ("https://ghcr.io/owner/model", "no part of"),
        ("GHCR.io/owner/model", "upper-case"),
        ("owner/Model", "upper-case"),
        ("localhost:5000/owner/model", "`oci:`"),
        ("ghcr.io:443/owner/model", "`oci:`"),
        ("oci:ghcr.io:0443/owner/model", "no port"),
        ("oci:ghcr.io:65536/owner/model", "no port"),
        ("oci:ghcr.io:+44/owner/model", "no port"),
        ("oci:ghcr.io:/owner/model", "no port"),
        ("HF:owner/model", "no hub's name"),
        (long.as_str(), "more than 255 bytes"),
    ] {
        let message = message(&format!("{repository}@sha256:{SHA256}"));
        assert!(message.contains(expected), "{repository:?}: {message}");
        assert!(message.is_ascii() && !message.contains('\0'), "{message}");
    }
    assert!(message(&"a".repeat(1 << 20)).len() < 400);
    for (text, expected) in [
        (format!("hf:model@{COMMIT}"), "owner and its name"),
        (format!("hf:a/b/c@{COMMIT}"), "owner and its name"),
        (format!("hf:owner/model@sha256:{SHA256}"), "no sha256 digest"),
        (format!("owner/model@{COMMIT}"), "no Git commit"),
        (format!("owner/model@sha256:{}", SHA256.to_uppercase()), "lower case"),
        (format!("hf:owner/model@{}", COMMIT.to_uppercase()), "lower case"),
    ] {
        let message = message(&text);
        assert!(message.contains(expected), "{message}");
    }
    let error = HubRef::new("oci", "../x", Revision::Commit([0; 20])).expect_err("hostile");
    assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
}

#[test]
fn settings_name_one_model() {
    let folder = || Some(ModelRef::Folder("models/king".into()));
    let one = |path, name: Option<&str>| {
        ModelRef::one_of([("path", path), ("name", name.map(ModelRef::served)), ("ref", None)])
    };
    assert_eq!(one(folder(), None).expect("one"), ModelRef::Folder("models/king".into()));
    assert_eq!(one(None, Some("gpt")).expect("one"), ModelRef::served("gpt"));
    for (given, expected) in [
        (one(None, None), "set one of `path`, `name`, `ref`"),
        (one(folder(), Some("gpt")), "`path` and `name` both name the model"),
        (one(None, Some("")), "0 bytes"),
        (one(None, Some(&"x".repeat(513))), "513 bytes"),
        (one(None, Some("a\nb")), "a control character"),
        (one(Some(ModelRef::Folder(PathBuf::new())), None), "the path is empty"),
    ] {
        let error = given.expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    }
}

#[test]
fn only_folders_are_relative() {
    let base = Path::new("/base");
    assert_eq!(ModelRef::from(Path::new("a/b")).relative_to(base), ModelRef::Folder("/base/a/b".into()));
    assert_eq!(ModelRef::from(Path::new("/a")).relative_to(base), ModelRef::Folder("/a".into()));
    assert_eq!(ModelRef::served("a/b").relative_to(base), ModelRef::served("a/b"));
}

#[test]
fn a_backend_refuses_what_it_cannot_load_with_the_remedy() {
    let hub: HubRef = format!("owner/model@sha256:{SHA256}").parse().expect("reads");
    for (refused, expected) in [
        (ModelRef::served("gpt").require_folder("load").err(), "`path`"),
        (ModelRef::from(hub).require_folder("load").err(), "`path`"),
        (ModelRef::from(Path::new("gpt")).require_served("load").err(), "`name`"),
    ] {
        let error = refused.expect("refused");
        assert_eq!((error.kind(), error.fault()), (ErrorKind::ConfigInvalid, Fault::Operator));
        assert!(error.to_string().contains(expected), "{error}");
    }
}

fn revisions() -> impl Strategy<Value = Revision> {
    prop_oneof![
        any::<[u8; 32]>().prop_map(|bytes| Revision::Sha256(Digest::from(bytes))),
        any::<[u8; 20]>().prop_map(Revision::Commit),
    ]
}

fn references() -> impl Strategy<Value = HubRef> {
    let hub = prop_oneof![Just("oci".to_owned()), Just("hf".to_owned()), "[a-z][a-z0-9-]{0,8}"];
    let repository = "([a-z0-9-]{1,8}(:[1-9][0-9]{0,3})?/)?[a-zA-Z0-9_]{1,6}([._-][a-zA-Z0-9]{1,4}){0,2}(/[a-z]{1,6}){0,2}";
    (hub, repository, revisions()).prop_filter_map("well-formed", |(hub, repository, revision)| {
        HubRef::new(hub, repository, revision).ok()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: 65_536, ..ProptestConfig::default() })]

    #[test]
    fn references_read_back_from_their_text(reference in references()) {
        let text = reference.to_string();
        let read: HubRef = text.parse().expect("reads back");
        prop_assert_eq!(&read, &reference);
        prop_assert_eq!(read.to_string(), text);
    }

    #[test]
    fn whatever_reads_has_one_spelling(text in any::<String>()) {
        if let Ok(reference) = text.parse::<HubRef>() {
            prop_assert_eq!(reference.to_string().parse::<HubRef>().expect("reads back"), reference);
        }
    }

    #[test]
    fn one_foreign_character_is_refused(reference in references(), c in any::<char>(), at in any::<usize>()) {
        prop_assume!(!c.is_ascii_alphanumeric() && !"._-/:@".contains(c));
        let mut text: Vec<char> = reference.to_string().chars().collect();
        text.insert(at % (text.len() + 1), c);
        let text: String = text.into_iter().collect();
        prop_assert!(text.parse::<HubRef>().is_err(), "{}", text);
    }
}
