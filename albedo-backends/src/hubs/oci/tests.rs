//! The hub before a registry that behaves, and before one that does not. Every case
//! says whose fault it is, and looks at what is left on disk.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use albedo_core::conformance::{HubFixture, check_hub};
use albedo_core::{Artefact, Fault, SystemClock};
use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::cache::{Cache, CacheLimits, CachedFiles};
use crate::http::Client;
use crate::hubs::remote::Patience;
use crate::hubs::scripted::{self, Piece, Reply, Request, Server};

mod absent;
mod deleted;
mod pushing;

const REPOSITORY: &str = "owner/model";

/// Little patience, so that what is given up is given up soon.
fn remote() -> Remote {
    let remote = Remote::new(Arc::new(Client::from_env()), Arc::new(SystemClock::default()));
    remote.with_patience(Patience {
        tries: 3,
        pause: Duration::from_millis(1),
        stall: Duration::from_secs(3),
        least: 1 << 10,
    })
}

fn hub(server: &Server) -> OciHub {
    let config = OciHubConfig { registry: server.url(), ..OciHubConfig::default() };
    OciHub::new(&config, None, remote()).expect("a hub")
}

/// Bytes that no two places share.
pub(super) fn noise(size: usize, seed: u8) -> Bytes {
    let mut block = Digest::of([seed]);
    let mut bytes = Vec::with_capacity(size + 32);
    while bytes.len() < size {
        bytes.extend_from_slice(block.as_bytes());
        block = Digest::of(block.as_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

/// Weights of more than two ranges.
fn model() -> Vec<(&'static str, Bytes)> {
    vec![("config.json", Bytes::from_static(b"{}")), ("model.safetensors", noise((9 << 20) + 5, 1))]
}

async fn serve(
    registry: Arc<scripted::Registry>,
    fault: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> Server {
    Server::start(0, move |request| fault(request, registry.answer(request))).await.expect("listens")
}

/// Resolves and holds the model in a new cache; looks at what is left if that fails.
async fn pull(server: &Server, reference: &HubRef) -> Result<Vec<(String, Digest)>> {
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Cache::new(folder.path());
    cache.set_limits(CacheLimits { quota: None, keep_free: 0 }).expect("set");
    let cx = CallContext::new();
    let pulled = async {
        let files = hub(server).resolve(reference, &cx).await?;
        cache.hold("model", &*files, &cx).await
    };
    let held = match pulled.await {
        Ok(held) => held,
        Err(error) => {
            assert!(cache.list().expect("lists").is_empty(), "no model is there: {error}");
            assert!(cache.held("model", &cx).await.expect("looks").is_none());
            // What was being written when the error came is written to its end.
            for partial in std::fs::read_dir(folder.path().join("partial")).into_iter().flatten() {
                let partial = std::fs::File::open(partial.expect("an entry").path()).expect("opens");
                partial.lock().expect("locked");
            }
            cache.collect().expect("collects");
            let files = |part: &str| std::fs::read_dir(folder.path().join(part)).map_or(0, Iterator::count);
            assert_eq!((files("blobs"), files("partial"), files("models")), (0, 0, 0), "{error}");
            return Err(error);
        }
    };
    let digest = |file: &albedo_core::FileEntry| {
        let bytes = std::fs::read(held.folder().join(&file.name)).expect("is there");
        (file.name.clone(), Digest::of(bytes))
    };
    Ok(held.files().iter().map(digest).collect())
}

fn is_weights(request: &Request) -> bool {
    request.path.contains("/blobs/") && !request.header("range").is_empty()
}

#[tokio::test]
async fn the_hub_conforms_with_both_layouts() {
    let registry = Arc::new(scripted::Registry::with_tokens(0));
    let plain = registry.plain(REPOSITORY, &model()).expect("stored");
    let pack = noise(5 << 20, 2);
    let pieces = [Piece { offset: 1 << 20, size: 3 << 20 }, Piece { offset: 0, size: 1 << 20 }];
    let chunked = registry.chunked(REPOSITORY, "model.safetensors", &pack, &pieces).expect("stored");
    let server = serve(Arc::clone(&registry), |_, reply| reply).await;
    for reference in [plain, chunked] {
        check_hub(&hub(&server), &HubFixture::new(reference)).await.expect("conforms");
    }
}

#[tokio::test]
async fn what_is_pulled_is_what_was_pushed() {
    let registry = Arc::new(scripted::Registry::with_tokens(3));
    let plain = registry.plain(REPOSITORY, &model()).expect("stored");
    // One range is used three times, as in a file of three equal parts.
    let pack = noise(3 << 20, 3);
    let piece = Piece { offset: 1 << 20, size: 2 << 20 };
    let chunked = registry.chunked(REPOSITORY, "thirds", &pack, &[piece; 3]).expect("stored");
    // Tokens run out after three requests, in the middle of the downloads.
    let server = serve(registry, |_, reply| reply).await;
    let pulled = pull(&server, &plain).await.expect("pulled");
    let expected: Vec<_> =
        model().into_iter().map(|(name, bytes)| (name.to_owned(), Digest::of(bytes))).collect();
    assert_eq!(pulled, expected);
    let whole = pack.slice(1 << 20..3 << 20).repeat(3);
    assert_eq!(pull(&server, &chunked).await.expect("pulled"), [("thirds".to_owned(), Digest::of(whole))]);
}

#[tokio::test]
async fn bytes_that_match_no_digest_are_the_hubs() {
    type Change = fn(&Request, Reply) -> Reply;
    let cases: [(&str, Change, ErrorKind); 9] = [
        ("a wrong byte", |_, reply| flipped(reply), ErrorKind::DigestMismatch),
        ("a cut body", |_, reply| reply.cut(1000), ErrorKind::Unavailable),
        ("a longer body", |_, reply| longer(reply), ErrorKind::Protocol),
        ("a range that is ignored", |_, reply| Reply::new(200, reply.body().clone()), ErrorKind::Protocol),
        ("another range", |_, reply| reply.with("content-range", "bytes 1-2/3"), ErrorKind::Protocol),
        ("no such range", |_, _| Reply::new(416, ""), ErrorKind::Protocol),
        ("too many requests", |_, _| Reply::new(429, "").with("retry-after", "0"), ErrorKind::RateLimited),
        ("a lost blob", |_, _| Reply::new(404, ""), ErrorKind::Unavailable),
        ("a slow drip", |_, reply| reply.drip(Duration::from_millis(20)), ErrorKind::Timeout),
    ];
    for (name, change, kind) in cases {
        let registry = Arc::new(scripted::Registry::default());
        let reference = registry.plain(REPOSITORY, &model()).expect("stored");
        let server =
            serve(
                Arc::clone(&registry),
                move |request, reply| {
                    if is_weights(request) { change(request, reply) } else { reply }
                },
            )
            .await;
        let error = pull(&server, &reference).await.expect_err(name);
        assert_eq!((error.kind(), error.fault()), (kind, Fault::Infrastructure), "{name}: {error}");
        assert!(error.artefact().is_none() && error.is_retryable(), "{name}: {error}");

        // Once is no harm.
        let count = AtomicUsize::new(0);
        let server = serve(registry, move |request, reply| {
            let first = is_weights(request) && count.fetch_add(1, Ordering::Relaxed) == 1;
            if first { change(request, reply) } else { reply }
        })
        .await;
        pull(&server, &reference).await.expect(name);
    }
}

fn flipped(reply: Reply) -> Reply {
    let mut bytes = reply.body().to_vec();
    let place = bytes.len() / 3;
    bytes[place] ^= 1;
    reply.with_body(bytes)
}

fn longer(reply: Reply) -> Reply {
    let mut bytes = reply.body().to_vec();
    bytes.push(0);
    reply.with_body(bytes)
}

#[tokio::test]
async fn a_credential_never_leaves_its_origin() {
    let registry = Arc::new(scripted::Registry::with_tokens(0));
    let reference = registry.plain(REPOSITORY, &model()).expect("stored");
    let storage = Arc::clone(&registry);
    // The other origin has the blobs, and asks for nothing.
    let open = Arc::new(scripted::Registry::default());
    for (_, bytes) in model() {
        open.blob(bytes);
    }
    let elsewhere = serve(open, |_, reply| reply).await;
    let to = elsewhere.url();
    let server = Server::start(0, move |request| match storage.answer(request) {
        reply if request.path.contains("/blobs/") && reply.status() < 300 => {
            Reply::redirect(&format!("{to}{}", request.path))
        }
        reply => reply,
    })
    .await
    .expect("listens");
    pull(&server, &reference).await.expect("pulled");
    let seen = elsewhere.seen();
    assert!(!seen.is_empty() && seen.iter().all(|request| !request.headers.contains_key("authorization")));
    assert!(server.seen().iter().any(|request| request.headers.contains_key("authorization")));
}

#[tokio::test]
async fn tokens_are_asked_of_the_configured_service_alone() {
    let other = Server::start(0, |_| Reply::json(200, &json!({ "token": "x" }))).await.expect("listens");
    let realm = format!("Bearer realm=\"{}/token\",service=\"s\"", other.url());
    let server = Server::start(0, move |_| Reply::new(401, "").with("www-authenticate", &realm))
        .await
        .expect("listens");
    let reference = HubRef::new("oci", REPOSITORY, Revision::Sha256(Digest::of("x"))).expect("a reference");
    let error = hub(&server).resolve(&reference, &CallContext::new()).await.expect_err("refused");
    assert_eq!(error.fault(), Fault::Operator);
    assert!(error.to_string().contains("token_service"), "{error}");
    assert!(other.seen().is_empty());

    // A user that the service refuses is the operator's to mend.
    let server = Server::start(0, |request| match request.path.as_str() {
        "/service/token" => Reply::new(401, ""),
        _ => Reply::new(401, "").with(
            "www-authenticate",
            &format!("Bearer realm=\"http://{}/service/token\",service=\"s\"", request.header("host")),
        ),
    })
    .await
    .expect("listens");
    let config = OciHubConfig { registry: server.url(), ..OciHubConfig::default() };
    let user = Credential::basic("HUB_PASSWORD", "aHVzaDpodXNo").expect("a credential");
    let hub = OciHub::new(&config, Some(user), remote()).expect("a hub");
    let error = hub.resolve(&reference, &CallContext::new()).await.expect_err("refused");
    assert_eq!((error.fault(), error.kind()), (Fault::Operator, ErrorKind::Unavailable), "{error}");
    assert!(
        error.to_string().contains("HUB_PASSWORD") && !format!("{error:?}").contains("aHVz"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_blob_that_is_not_shown_any_more_is_asked_for_again() {
    let registry = Arc::new(scripted::Registry::default());
    let reference = registry.plain(REPOSITORY, &model()).expect("stored");
    let count = AtomicUsize::new(0);
    let server = serve(registry, move |request, reply| {
        let first = is_weights(request) && count.fetch_add(1, Ordering::Relaxed) == 0;
        if first { Reply::new(403, "") } else { reply }
    })
    .await;
    pull(&server, &reference).await.expect("pulled");
}

#[tokio::test]
async fn a_manifest_that_is_not_the_pinned_one_is_the_hubs() {
    let registry = Arc::new(scripted::Registry::default());
    let reference = registry.plain(REPOSITORY, &model()).expect("stored");
    let server =
        serve(
            registry,
            |request, reply| {
                if request.path.contains("/manifests/") { reply.with_body("{}") } else { reply }
            },
        )
        .await;
    let error = pull(&server, &reference).await.expect_err("refused");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::DigestMismatch, Fault::Infrastructure), "{error}");
    assert_eq!(server.seen().len(), 3, "it is asked for again");
    assert!(error.artefact().is_none());
}

fn layers(layers: &[serde_json::Value]) -> Vec<u8> {
    json!({ "schemaVersion": 2, "layers": layers }).to_string().into_bytes()
}

fn layer(title: &str) -> serde_json::Value {
    json!({
        "digest": format!("sha256:{}", Digest::of("x")), "size": 1,
        "annotations": { "org.opencontainers.image.title": title },
    })
}

#[tokio::test]
async fn a_pinned_manifest_that_is_malformed_is_its_authors() {
    let many = vec![json!({ "digest": format!("sha256:{}", Digest::of("x")), "size": 1 }); 100_000];
    let mut negative = layer("a");
    negative["size"] = json!(-1);
    let mut unknown = json!({ "schemaVersion": 2, "layers": [layer("a")] });
    unknown["annotations"] = json!({ "com.hippius.layout": "chunked-v9" });
    let mut index = json!({ "schemaVersion": 2, "layers": [layer("a")] });
    index["mediaType"] = json!("application/vnd.oci.image.index.v1+json");
    let mut broken = layers(&[layer("aXb")]);
    let place = broken.windows(3).position(|part| part == b"aXb").expect("is there");
    broken[place + 1] = 0xff;
    let mut weak = layer("a");
    weak["digest"] = json!("md5:00");
    let mut empty = layer("a");
    empty["size"] = json!(0);
    let mut not_empty = layer("a");
    not_empty["digest"] = json!(format!("sha256:{}", Digest::of("")));
    for (bytes, words) in [
        (vec![b' '; 5 << 20], "too large"),
        (layers(&many), "too large"),
        (layers(&many[..5000]), "too many layers"),
        (layers(&[layer("a"), layer("a")]), "two files have one name"),
        (layers(&[layer("../x")]), "leaves the model's folder"),
        (layers(&[layer("/x")]), "leaves the model's folder"),
        (layers(&[layer("a\0")]), "leaves the model's folder"),
        (layers(&[layer("a"), layer("a/b")]), "lies below another"),
        (layers(&[]), "names no file"),
        (layers(&many[..1]), "no file's name"),
        (layers(&[negative]), "the manifest is none"),
        (layers(&[weak]), "64 digits"),
        (layers(&[empty]), "contradict each other"),
        (layers(&[not_empty]), "contradict each other"),
        (broken, "the manifest is none"),
        (unknown.to_string().into_bytes(), "layout is unknown"),
        (index.to_string().into_bytes(), "another kind"),
        (b"\x1f\x8b".to_vec(), "the manifest is none"),
    ] {
        let registry = Arc::new(scripted::Registry::default());
        let reference = registry.manifest(REPOSITORY, bytes).expect("stored");
        let server = serve(registry, |_, reply| reply).await;
        let error = pull(&server, &reference).await.expect_err(words);
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert_eq!(error.artefact(), Some(Artefact::Model), "{error}");
        assert_eq!(server.seen().len(), 1, "one read proves it: {error}");
    }
}

#[tokio::test]
async fn a_pointer_that_is_malformed_is_its_authors() {
    let pack = noise(4 << 20, 4);
    let size = pack.len() as u64;
    let chunk = |offset: u64, size: u64| {
        let bytes = pack.get(offset as usize..offset.saturating_add(size) as usize).unwrap_or_default();
        json!({
            "digest": format!("sha256:{}", Digest::of(bytes)), "offset": offset,
            "pack": format!("sha256:{}", Digest::of(&pack)), "size": size,
        })
    };
    let pointer = |size: u64, digest: Digest, chunks: Vec<serde_json::Value>| {
        let file = json!({ "digest": format!("sha256:{digest}"), "size": size });
        json!({ "chunks": chunks, "file": file, "version": "chunked-v2" })
    };
    let any = Digest::of("x");
    let mut elsewhere = chunk(0, 10);
    elsewhere["pack"] = json!(format!("sha256:{any}"));
    let mut negative = chunk(0, 10);
    negative["size"] = json!(-10);
    // A terabyte made of one chunk.
    let chunks = vec![chunk(0, 1 << 24); 1 << 16];
    let terabyte = pointer(1 << 40, any, chunks);
    for (pointer, words) in [
        (pointer(10, any, vec![elsewhere]), "does not list"),
        (pointer(10, any, vec![chunk(size - 9, 10)]), "past the end of its pack"),
        (pointer(10, any, vec![chunk(u64::MAX - 1, 10)]), "past the end of its pack"),
        (pointer(11, any, vec![chunk(0, 10)]), "do not add up"),
        (pointer(0, Digest::of(""), vec![chunk(0, 0)]), "not in its bounds"),
        (pointer(0, any, vec![]), "contradict each other"),
        (pointer(10, any, vec![negative]), "the pointer is none"),
        (pointer(1 << 26, any, vec![chunk(0, 1 << 26)]), "not in its bounds"),
        (terabyte, "past the end of its pack"),
        (json!({ "chunks": [], "file": { "digest": "x", "size": 0 }, "version": "v9" }), "unknown version"),
    ] {
        let registry = Arc::new(scripted::Registry::default());
        let pack = registry.blob(pack.clone());
        let packs = [(pack, size as usize)];
        let reference = registry.pointed(REPOSITORY, "weights", &pointer, &packs).expect("stored");
        let server = serve(registry, |_, reply| reply).await;
        let error = pull(&server, &reference).await.expect_err(words);
        assert!(error.to_string().contains(words), "{words}: {error}");
        assert_eq!(error.artefact(), Some(Artefact::Model), "{error}");
    }
}

#[tokio::test]
async fn a_file_is_bounded_by_what_is_declared_not_by_its_packs() {
    // 16 MiB describe a terabyte.
    let pack = noise(1 << 24, 5);
    let registry = Arc::new(scripted::Registry::default());
    let piece = json!({
        "digest": format!("sha256:{}", Digest::of(&pack)), "offset": 0,
        "pack": format!("sha256:{}", Digest::of(&pack)), "size": pack.len(),
    });
    let file = json!({ "digest": format!("sha256:{}", Digest::of("x")), "size": 1_u64 << 40 });
    let pointer = json!({ "chunks": vec![piece; 1 << 16], "file": file, "version": "chunked-v2" });
    let packs = [(registry.blob(pack.clone()), pack.len())];
    let reference = registry.pointed(REPOSITORY, "weights", &pointer, &packs).expect("stored");
    let server = serve(registry, |_, reply| reply).await;
    let error = pull(&server, &reference).await.expect_err("too large");
    assert!(error.to_string().contains("larger than allowed"), "{error}");
    assert!(error.to_string().contains("`max_model_bytes`"), "{error}");
    assert_eq!(error.artefact(), Some(Artefact::Model));
    assert_eq!(server.seen().len(), 2, "manifest and pointer, nothing of the pack");
}

#[tokio::test]
async fn pointers_are_bounded_together_and_equal_ones_are_fetched_once() {
    let registry = Arc::new(scripted::Registry::default());
    let pack = noise(1 << 20, 9);
    let packed = format!("sha256:{}", registry.blob(pack.clone()));
    let chunk = json!({ "digest": packed, "offset": 0, "pack": packed, "size": pack.len() });
    let file = json!({ "digest": packed, "size": pack.len() });
    let pointer = json!({ "chunks": [chunk], "file": file, "version": "chunked-v2" }).to_string();
    let pointed = |name: &str, size: usize| {
        let mut layer = layer(name);
        layer["mediaType"] = json!("application/vnd.hippius.pointer.v2");
        layer["digest"] = json!(format!("sha256:{}", Digest::of(&pointer)));
        layer["size"] = json!(size);
        layer
    };
    let listed =
        json!({ "mediaType": "application/vnd.hippius.pack.v1", "digest": packed, "size": pack.len() });
    let manifest = |sizes: [usize; 3]| {
        let [a, b, c] = sizes;
        layers(&[pointed("a", a), pointed("b", b), pointed("c", c), listed.clone()])
    };
    registry.blob(pointer.clone());
    let large = registry.manifest(REPOSITORY, manifest([32 << 20, 32 << 20, 1])).expect("stored");
    let equal = registry.manifest(REPOSITORY, manifest([pointer.len(); 3])).expect("stored");
    let server = serve(registry, |_, reply| reply).await;
    let error = pull(&server, &large).await.expect_err("too large");
    assert!(error.to_string().contains("too large together"), "{error}");
    assert_eq!(error.artefact(), Some(Artefact::Model), "{error}");
    assert_eq!(server.seen().len(), 1, "no pointer is fetched");
    let cx = CallContext::new();
    let files = hub(&server).resolve(&equal, &cx).await.expect("resolves");
    assert_eq!(files.list(&cx).await.expect("lists").len(), 3);
    assert_eq!(server.seen().len(), 3, "the other manifest, and one pointer");
}

#[tokio::test]
async fn only_the_files_digest_tells_that_chunks_were_swapped() {
    let pack = noise(4 << 20, 6);
    let registry = Arc::new(scripted::Registry::default());
    let packed = registry.blob(pack.clone());
    let half = pack.len() / 2;
    let chunk = |range: std::ops::Range<usize>| {
        json!({
            "digest": format!("sha256:{}", Digest::of(&pack[range.clone()])), "offset": range.start,
            "pack": format!("sha256:{packed}"), "size": range.len(),
        })
    };
    let file = json!({ "digest": format!("sha256:{}", Digest::of(&pack)), "size": pack.len() });
    let chunks = [chunk(half..pack.len()), chunk(0..half)];
    let pointer = json!({ "chunks": chunks, "file": file, "version": "chunked-v2" });
    let reference =
        registry.pointed(REPOSITORY, "weights", &pointer, &[(packed, pack.len())]).expect("stored");
    let server = serve(Arc::clone(&registry), |_, reply| reply).await;
    let error = pull(&server, &reference).await.expect_err("swapped");
    assert_eq!((error.artefact(), error.kind()), (Some(Artefact::Model), ErrorKind::DataInvalid), "{error}");
    assert!(!error.is_retryable());
    assert!(server.sent() < 5 << 20, "after one read: {} bytes", server.sent());

    // A wrong byte in a chunk is the hub's.
    let reference = registry
        .chunked(REPOSITORY, "weights", &pack, &[Piece { offset: 0, size: pack.len() }])
        .expect("stored");
    let server = serve(registry, |request, reply| {
        let wrong = request.path.contains("/blobs/") && reply.body().len() > 10_000;
        if wrong { flipped(reply) } else { reply }
    })
    .await;
    let error = pull(&server, &reference).await.expect_err("a wrong byte");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::DigestMismatch, Fault::Infrastructure), "{error}");
    assert!(error.artefact().is_none());
}

#[tokio::test]
async fn a_hub_that_answers_differently_later_convicts_nobody() {
    let registry = Arc::new(scripted::Registry::default());
    let large = vec![("weights", noise(34 << 20, 7)), ("config.json", Bytes::from_static(b"{\"a\":1}"))];
    let reference = registry.plain(REPOSITORY, &large).expect("stored");
    for name in ["weights", "config.json"] {
        let count = Arc::new(AtomicUsize::new(0));
        let (counted, registry) = (Arc::clone(&count), Arc::clone(&registry));
        let server = serve(registry, move |request, reply| {
            // The first read of a range, which a screen makes.
            let first = is_weights(request) && counted.fetch_add(1, Ordering::Relaxed) == 0;
            if first { flipped(reply) } else { reply }
        })
        .await;
        let cx = CallContext::new();
        let files = hub(&server).resolve(&reference, &cx).await.expect("resolves");
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::new(folder.path());
        cache.set_limits(CacheLimits { quota: None, keep_free: 0 }).expect("set");
        let files = CachedFiles::new(files, cache, "model");
        // Where the byte is flipped of the first megabyte.
        let range = if name == "weights" { 349_520..349_530 } else { 0..4 };
        let read = files.read(name, range, &cx).await.expect("reads");
        let read = [read, files.read("weights", 1 << 20..1 << 21, &cx).await.expect("reads")].concat();
        assert!(!read.is_empty());
        for _ in 0..2 {
            let error = files.prove(&cx).await.expect_err("other bytes");
            assert_eq!((error.kind(), error.fault()), (ErrorKind::DigestMismatch, Fault::Infrastructure));
            assert!(error.to_string().contains("other bytes before"), "{error}");
        }
    }
    // An honest hub proves what was read, and reads come from the cache afterwards.
    let server = serve(registry, |_, reply| reply).await;
    let cx = CallContext::new();
    let files = hub(&server).resolve(&reference, &cx).await.expect("resolves");
    let folder = tempfile::tempdir().expect("a folder");
    let cache = Cache::new(folder.path());
    cache.set_limits(CacheLimits { quota: None, keep_free: 0 }).expect("set");
    let files = CachedFiles::new(files, cache, "model");
    let read = files.read("weights", 5..9, &cx).await.expect("reads");
    files.prove(&cx).await.expect("proven");
    files.hold(&cx).await.expect("held");
    let requests = server.seen().len();
    assert_eq!(files.read("weights", 5..9, &cx).await.expect("reads"), read);
    assert_eq!(server.seen().len(), requests);
}

#[tokio::test]
async fn a_listing_and_headers_of_fourteen_shards_take_few_requests() {
    let registry = Arc::new(scripted::Registry::with_tokens(0));
    let names: Vec<_> = (1..=14).map(|shard| format!("model-{shard:05}-of-00014.safetensors")).collect();
    let mut files: Vec<(&str, Bytes)> =
        names.iter().enumerate().map(|(index, name)| (name.as_str(), noise(2 << 20, index as u8))).collect();
    for name in ["config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer.json"] {
        files.push((name, noise(3000, 99)));
    }
    let reference = registry.plain(REPOSITORY, &files).expect("stored");
    let server = serve(registry, |_, reply| reply).await;
    let cx = CallContext::new();
    let files = hub(&server).resolve(&reference, &cx).await.expect("resolves");
    for file in files.list(&cx).await.expect("lists") {
        // As a header is read: its length, then itself.
        files.read(&file.name, 0..8, &cx).await.expect("reads");
        files.read(&file.name, 8..2500, &cx).await.expect("reads");
    }
    // 401, token, manifest, and one per file.
    assert_eq!(server.seen().len(), 3 + 18);
}

#[tokio::test]
async fn a_reference_names_no_other_registry() {
    let registry = Arc::new(scripted::Registry::default());
    let reference = registry.plain(REPOSITORY, &model()).expect("stored");
    let server = serve(registry, |_, reply| reply).await;
    let host = server.url().replace("http://", "");
    let named = |repository: &str| HubRef::new("oci", repository, reference.revision()).expect("a reference");
    let own = named(&format!("{host}/{REPOSITORY}"));
    pull(&server, &own).await.expect("the configured one");
    hub(&server).accepts(&own).expect("the configured one");
    let asked = server.seen().len();
    for other in ["ghcr.io/owner/model", "localhost/owner/model", "127.0.0.1:1/owner/model"] {
        let pulled = pull(&server, &named(other)).await.expect_err("another registry");
        let refused = hub(&server).accepts(&named(other)).expect_err("another registry");
        for error in [pulled, refused] {
            assert_eq!((error.kind(), error.fault()), (ErrorKind::ConfigInvalid, Fault::Operator), "{error}");
        }
    }
    assert_eq!(server.seen().len(), asked, "nobody is asked");
}

#[test]
fn settings_are_checked() {
    let registry = albedo_core::Registry::linked().expect("links");
    for (settings, words) in [
        (json!({ "registry": "http://registry.example" }), "plain HTTP"),
        (json!({ "registry": "https://registry.example/v2" }), "has a path"),
        (json!({ "registry": "https://a:b@registry.example" }), "a user or a password"),
        (json!({ "registry": "registry.example" }), "is no URL"),
        (json!({ "username": "a" }), "no password"),
        (json!({ "password_env": "A" }), "no user"),
        (json!({ "username": "a:b", "password_env": "A" }), "a colon"),
        (json!({ "token_service": "ftp://x" }), "does not begin"),
    ] {
        let error = registry.check::<dyn ModelHub>("oci", &settings).expect_err(words);
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
    }
    registry
        .check::<dyn ModelHub>("oci", json!({ "registry": "http://127.0.0.1:5000" }))
        .expect("this machine");
}

#[tokio::test]
async fn a_size_that_the_blobs_own_bytes_refute_is_the_manifests() {
    let small = Bytes::from_static(b"{\"a\": 1}");
    let large = noise((9 << 20) + 5, 1);
    for (bytes, listed) in
        [(&small, 3), (&small, 9000), (&large, 8 << 20), (&large, (9 << 20) + 6), (&large, 100)]
    {
        let registry = Arc::new(scripted::Registry::default());
        let mut wrong = layer("weights");
        wrong["digest"] = json!(format!("sha256:{}", registry.blob(bytes.clone())));
        wrong["size"] = json!(listed);
        let reference = registry.manifest(REPOSITORY, layers(&[wrong])).expect("stored");
        let server = serve(Arc::clone(&registry), |_, reply| reply).await;
        let error = pull(&server, &reference).await.expect_err("refuted");
        assert_eq!(
            (error.artefact(), error.kind()),
            (Some(Artefact::Model), ErrorKind::DataInvalid),
            "{error}"
        );
        assert!(!error.is_retryable() && error.to_string().contains("another size"), "{error}");
        // The ranges that were asked for, and every byte once.
        let most = 4 * (4 << 20) + 2 * bytes.len() as u64;
        assert!(server.sent() <= most, "after one read: {} bytes", server.sent());

        // A server that has other bytes, too, proves nothing.
        let server = serve(
            registry,
            |request, reply| {
                if request.path.contains("/blobs/") { flipped(reply) } else { reply }
            },
        )
        .await;
        let error = pull(&server, &reference).await.expect_err("distrusted");
        assert_eq!((error.artefact(), error.fault()), (None, Fault::Infrastructure), "{error}");
    }
    // The same for a pack and for a pointer.
    let pack = noise(5 << 20, 2);
    let chunk = json!({
        "digest": format!("sha256:{}", Digest::of(&pack)), "offset": 0,
        "pack": format!("sha256:{}", Digest::of(&pack)), "size": pack.len(),
    });
    let file = json!({ "digest": format!("sha256:{}", Digest::of(&pack)), "size": pack.len() });
    let pointer = json!({ "chunks": [chunk], "file": file, "version": "chunked-v2" });
    let registry = Arc::new(scripted::Registry::default());
    let packs = [(registry.blob(pack.clone()), pack.len() + 1)];
    let reference = registry.pointed(REPOSITORY, "weights", &pointer, &packs).expect("stored");
    let server = serve(registry, |_, reply| reply).await;
    let error = pull(&server, &reference).await.expect_err("refuted");
    assert_eq!(error.artefact(), Some(Artefact::Model), "{error}");
}

#[tokio::test]
async fn a_size_that_only_the_registry_says_convicts_nobody() {
    let registry = Arc::new(scripted::Registry::default());
    let reference = registry.plain(REPOSITORY, &model()).expect("stored");
    let server = serve(registry, |request, reply| match request.header("range") {
        "" => reply,
        range => reply.with("content-range", &format!("{}/10000000", range.replace('=', " "))),
    })
    .await;
    let error = pull(&server, &reference).await.expect_err("distrusted");
    assert_eq!((error.artefact(), error.fault()), (None, Fault::Infrastructure), "{error}");
    assert!(error.is_retryable() && error.to_string().contains("another size"), "{error}");
    let whole = server
        .seen()
        .into_iter()
        .filter(|request| request.path.contains("/blobs/") && request.header("range").is_empty());
    assert!(whole.count() <= 2, "the blob is weighed once, besides the small file");
}
