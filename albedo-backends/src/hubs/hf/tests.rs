//! The hub before a stand-in for Hugging Face.

use std::time::Duration;

use albedo_core::conformance::{HubFixture, check_hub};
use albedo_core::{Side, SystemClock};
use serde_json::json;

use super::*;
use crate::http::Client;
use crate::hubs::remote::Patience;
use crate::hubs::scripted::{HuggingFace, Reply, Request, Server};

const COMMIT: &str = "1cfa9a7208912126459214e8b04321603b3df60c";

fn stand_in() -> HuggingFace {
    HuggingFace::new("models", "owner/model", COMMIT)
        .with("config.json", "{}", false)
        .with("sub folder/a+b.json", "{\"a\": 1}", false)
        .with("model.safetensors", vec![7; 3 << 20], true)
        .with("empty", "", false)
        .paged(2)
}

fn hub(server: &Server) -> HfHub {
    hub_with(server, None)
}

fn hub_with(server: &Server, token: Option<Credential>) -> HfHub {
    let remote = Remote::new(Arc::new(Client::from_env()), Arc::new(SystemClock::default()));
    let remote = remote.with_patience(Patience {
        tries: 3,
        pause: Duration::from_millis(1),
        stall: Duration::from_secs(10),
        least: 1,
    });
    let config = HfHubConfig { endpoint: server.url(), ..HfHubConfig::default() };
    HfHub::new(&config, token, remote).expect("a hub")
}

fn reference() -> HubRef {
    format!("hf:owner/model@{COMMIT}").parse().expect("a reference")
}

async fn serve(change: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static) -> Server {
    let stand_in = stand_in();
    Server::start(0, move |request| change(request, stand_in.answer(request))).await.expect("listens")
}

#[test]
fn blob_ids_are_gits() {
    // `printf hello | git hash-object --stdin`, and of nothing.
    assert_eq!(blob_id(b"hello"), "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0");
    assert_eq!(blob_id(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
}

#[tokio::test]
async fn the_hub_conforms() {
    let server = serve(|_, reply| reply).await;
    check_hub(&hub(&server), &HubFixture::new(reference())).await.expect("conforms");
    let files = hub(&server).resolve(&reference(), &CallContext::new()).await.expect("resolves");
    let names: Vec<_> =
        files.list(&CallContext::new()).await.expect("lists").into_iter().map(|file| file.name).collect();
    assert_eq!(names, ["config.json", "empty", "model.safetensors", "sub folder/a+b.json"], "of all pages");
}

#[tokio::test]
async fn nothing_that_the_hub_says_is_a_contestants_fault() {
    type Change = fn(&Request, Reply) -> Reply;
    let cases: [(&str, Change, ErrorKind); 7] = [
        (
            "a small file of other bytes",
            |request, reply| {
                if request.path.ends_with("config.json") { reply.with_body("[]") } else { reply }
            },
            ErrorKind::DigestMismatch,
        ),
        (
            "a branch that looks like a commit",
            |request, reply| {
                if request.path.contains("/revision/") {
                    Reply::json(200, &serde_json::json!({ "sha": "0".repeat(40) }))
                } else {
                    reply
                }
            },
            ErrorKind::NotFound,
        ),
        (
            "a name that leaves the folder",
            |request, reply| {
                if request.path.contains("/tree/") {
                    let entry =
                        serde_json::json!([{ "type": "file", "oid": "0", "size": 1, "path": "../x" }]);
                    Reply::json(200, &entry)
                } else {
                    reply
                }
            },
            ErrorKind::DataInvalid,
        ),
        (
            "a next page elsewhere",
            |request, reply| {
                if request.path.contains("/tree/") {
                    Reply::json(200, &serde_json::json!([]))
                        .with("link", "<http://localhost:1/x>; rel=\"next\"")
                } else {
                    reply
                }
            },
            ErrorKind::Protocol,
        ),
        (
            "pages without an end",
            |request, reply| {
                if request.path.contains("/tree/") {
                    let next =
                        format!("<http://{}{}?cursor=1>; rel=\"next\"", request.header("host"), request.path);
                    Reply::json(200, &serde_json::json!([])).with("link", &next)
                } else {
                    reply
                }
            },
            ErrorKind::DataInvalid,
        ),
        ("no JSON", |_, _| Reply::new(200, "<html>"), ErrorKind::Protocol),
        ("an outage", |_, _| Reply::new(503, ""), ErrorKind::Unavailable),
    ];
    for (name, change, kind) in cases {
        let server = serve(change).await;
        let error = hub(&server).resolve(&reference(), &CallContext::new()).await.expect_err(name);
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.artefact().is_none() && error.fault() != Fault::Bug, "{name}: {error}");
    }
}

#[tokio::test]
async fn a_token_goes_to_the_hub_and_not_to_its_storage() {
    let other = {
        let stand_in = stand_in();
        Server::start(0, move |request| stand_in.answer(request)).await.expect("listens")
    };
    let to = other.url();
    let server = serve(move |request, reply| match reply.status() {
        307 => Reply::redirect(&format!("{to}/cdn/{}", Digest::of(vec![7; 3 << 20]))),
        _ if request.header("authorization") != "Bearer hush" => {
            Reply::new(401, "").with("x-error-code", "GatedRepo")
        }
        _ => reply,
    })
    .await;
    let cx = CallContext::new();
    // Without a token the model is not there.
    let error = hub(&server).resolve(&reference(), &cx).await.expect_err("gated");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let token = Credential::bearer("HF_TOKEN", "hush").expect("a token");
    let remote = Remote::new(Arc::new(Client::from_env()), Arc::new(SystemClock::default()));
    let config = HfHubConfig { endpoint: server.url(), ..HfHubConfig::default() };
    let hub = HfHub::new(&config, Some(token), remote).expect("a hub");
    let files = hub.resolve(&reference(), &cx).await.expect("resolves");
    files.read("model.safetensors", 0..1 << 21, &cx).await.expect("reads");
    let seen = other.seen();
    assert!(!seen.is_empty() && seen.iter().all(|request| !request.headers.contains_key("authorization")));
}

#[tokio::test]
async fn a_data_set_is_read_by_its_own_routes() {
    let stand_in = HuggingFace::new("datasets", "owner/tasks", COMMIT).with("data/a.parquet", "PAR1", true);
    let server = Server::start(0, move |request| stand_in.answer(request)).await.expect("listens");
    let reference: DataSetRef = format!("hf:datasets/owner/tasks@{COMMIT}").parse().expect("a reference");
    let cx = CallContext::new();
    let files = hub(&server).data_set(&reference, &cx).await.expect("resolves");
    assert_eq!(files.read("data/a.parquet", 0..4, &cx).await.expect("reads"), b"PAR1");
}

/// A refusal with the header `X-Error-Code`.
fn coded(status: u16, code: &str) -> Reply {
    Reply::new(status, "").with("x-error-code", code)
}

/// A refusal of the API with words and no code.
fn worded(status: u16, message: &str) -> Reply {
    Reply::json(status, &json!({ "error": message })).with("x-error-message", message)
}

/// What huggingface.co says without a key about a repository that it does not have, or does not show.
/// Source: its answers, published in July and September 2026.
const ANONYMOUS: &str = "Invalid username or password.";

#[tokio::test]
async fn only_the_hubs_own_word_makes_a_repository_absent() {
    let page = |status: u16, header: &str| {
        Reply::new(status, "<html>Sign in</html>").with(header, "Basic realm=\"the proxy\"")
    };
    let absent = (ErrorKind::NotFound, Fault::Operator);
    let operators = (ErrorKind::Unavailable, Fault::Operator);
    let outage = (ErrorKind::Unavailable, Fault::Infrastructure);
    // What it means without a key, and with one.
    for (reply, without, with) in [
        (coded(404, "RepoNotFound"), absent, absent),
        (coded(404, "RevisionNotFound"), absent, absent),
        (coded(403, "GatedRepo"), absent, absent),
        // With a key a 401 is about the key: it has run out, or is none.
        (coded(401, "RepoNotFound"), absent, operators),
        (coded(401, "GatedRepo"), absent, operators),
        (worded(401, ANONYMOUS).with("www-authenticate", "Bearer realm=\"x\""), absent, operators),
        (worded(401, "Invalid credentials in Authorization header"), operators, operators),
        // Proxies, and whatever else is in front of a hub.
        (coded(401, ""), operators, operators),
        (coded(403, ""), operators, operators),
        (coded(403, "DisabledRepo"), operators, operators),
        (page(401, "www-authenticate"), operators, operators),
        (page(401, "x-error-message"), operators, operators),
        (page(407, "proxy-authenticate"), operators, operators),
        (worded(403, ANONYMOUS), operators, operators),
        (Reply::json(401, &json!({ "error": ANONYMOUS })), operators, operators),
        (coded(404, ""), outage, outage),
        (worded(404, "Not Found"), outage, outage),
        (Reply::new(404, "default backend - 404"), outage, outage),
    ] {
        let shown = format!("{reply:?}");
        let server = serve(move |_, _| reply.clone()).await;
        let token = Credential::bearer("HF_TOKEN", "hush").expect("a token");
        for (token, expected) in [(None, without), (Some(token), with)] {
            let before = server.seen().len();
            let error = hub_with(&server, token).resolve(&reference(), &CallContext::new()).await;
            let error = error.expect_err("is not there");
            assert_eq!((error.kind(), error.fault()), expected, "{shown}: {error}");
            let asked = server.seen().len() - before;
            assert_eq!(asked, if expected == outage { 3 } else { 1 }, "{shown}: {error}");
        }
    }
}

#[tokio::test]
async fn only_the_hubs_own_word_makes_a_listed_file_absent() {
    let absent = (ErrorKind::NotFound, Fault::Operator);
    let outage = (ErrorKind::Unavailable, Fault::Infrastructure);
    let anonymous = Reply::new(401, ANONYMOUS).with("x-error-message", ANONYMOUS);
    for (reply, with_key, expected) in [
        (coded(404, "EntryNotFound"), false, absent),
        // A gated repository is listed to everybody.
        (coded(401, "GatedRepo"), false, absent),
        (coded(403, "GatedRepo"), true, absent),
        (anonymous, false, absent),
        (coded(404, ""), false, outage),
        (coded(401, ""), false, outage),
        (Reply::new(403, "<Error><Code>AccessDenied</Code></Error>"), false, outage),
    ] {
        let shown = format!("{reply:?}");
        for name in ["/model.safetensors", "/config.json"] {
            let reply = reply.clone();
            let server = serve(
                move |request, answer| {
                    if request.path.ends_with(name) { reply.clone() } else { answer }
                },
            )
            .await;
            let token = with_key.then(|| Credential::bearer("HF_TOKEN", "hush").expect("a token"));
            let (hub, cx) = (hub_with(&server, token), CallContext::new());
            // The weights are listed; a small file is read for that.
            let read = async {
                let files = hub.resolve(&reference(), &cx).await?;
                files.read("model.safetensors", 0..8, &cx).await
            };
            let present = async { hub.resolve(&reference(), &cx).await?.present(&cx).await };
            for error in [read.await.expect_err("is gone"), present.await.expect_err("is gone")] {
                assert_eq!((error.kind(), error.fault()), expected, "{name}, {shown}: {error}");
                assert!(error.is_retryable(), "{name}, {shown}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn sizes_are_those_of_what_is_downloaded_and_have_a_limit() {
    let entry = |path: &str, size: u64| json!({ "type": "file", "oid": "0", "size": size, "path": path });
    let large = |path: &str, size: u64| {
        let mut entry = entry(path, 134);
        entry["lfs"] = json!({ "oid": Digest::of(path).to_string(), "size": size });
        entry
    };
    let author = (ErrorKind::DataInvalid, Fault::Contestant(Side::Challenger));
    let (operator, hub_itself) =
        ((ErrorKind::ResourceExhausted, Fault::Operator), (ErrorKind::DataInvalid, Fault::Infrastructure));
    let small: Vec<_> = (0..5).map(|number| entry(&format!("{number}.parquet"), 15 << 20)).collect();
    // Files that Git keeps itself are read at once; of a data set nobody may want the large ones. The
    // operator names a data set, and its author a model.
    for (listed, model, data_set) in [
        // Together they are more than a number holds.
        (json!([large("a.parquet", u64::MAX), large("b.parquet", 2)]), author, None),
        (json!([large("a.parquet", 200 << 30)]), author, None),
        (json!(small), author, Some(operator)),
        // A hub that no longer tells which files are large is at fault itself.
        (json!([entry("a.parquet", u64::MAX), entry("b.parquet", 2)]), hub_itself, Some(hub_itself)),
        (json!([entry("a.parquet", 15 << 20), entry("b.parquet", 200 << 30)]), hub_itself, Some(hub_itself)),
    ] {
        let commit = json!({ "sha": COMMIT });
        let server = Server::start(0, move |request| {
            Reply::json(200, if request.path.contains("/tree/") { &listed } else { &commit })
        })
        .await
        .expect("listens");
        let (hub, cx) = (hub(&server), CallContext::new());
        let pinned: DataSetRef = format!("hf:datasets/owner/tasks@{COMMIT}").parse().expect("a reference");
        let found = |error: Error| {
            let error = error.charged_to(|_| Side::Challenger);
            (error.kind(), error.fault())
        };
        assert_eq!(hub.data_set(&pinned, &cx).await.err().map(found), data_set);
        assert_eq!(hub.resolve(&reference(), &cx).await.err().map(found), Some(model));
        assert_eq!(server.seen().len(), 4, "no file is asked for");
    }
}
