//! Blobs that the registry does not have any more, while it serves the manifest that names them.

use super::*;

/// How a registry says that it does not have a blob. Source: the error codes of the OCI
/// distribution specification 1.1.
fn unknown(code: &str) -> Reply {
    Reply::json(404, &json!({ "errors": [{ "code": code, "message": "blob unknown to registry" }] }))
}

#[tokio::test]
async fn only_the_registrys_own_word_makes_a_blob_absent() {
    let absent = (ErrorKind::NotFound, Fault::Operator);
    let outage = (ErrorKind::Unavailable, Fault::Infrastructure);
    let denied = json!({ "errors": [{ "code": "DENIED", "message": "requested access is denied" }] });
    for (name, answer, expected) in [
        ("its own word", unknown("BLOB_UNKNOWN"), absent),
        ("another code", unknown("PAGE_UNKNOWN"), outage),
        ("an empty answer", Reply::new(404, ""), outage),
        ("a proxy's page", Reply::new(404, "<html>404 Not Found</html>"), outage),
        ("a blob that is not shown", Reply::json(403, &denied), outage),
        ("a registry that is away", Reply::new(503, ""), outage),
    ] {
        let registry = Arc::new(scripted::Registry::default());
        let reference = registry.plain(REPOSITORY, &model()).expect("stored");
        let server =
            serve(registry, move |request, reply| if is_weights(request) { answer.clone() } else { reply })
                .await;
        let pulled = pull(&server, &reference).await.expect_err(name);
        let cx = CallContext::new();
        let files = hub(&server).resolve(&reference, &cx).await.expect("the manifest is served");
        for error in [pulled, files.present(&cx).await.expect_err(name)] {
            assert_eq!((error.kind(), error.fault()), expected, "{name}: {error}");
            // It is nobody's mistake, and it may pass.
            assert!(error.artefact().is_none() && error.is_retryable(), "{name}: {error}");
        }
    }
}

#[tokio::test]
async fn a_registry_is_asked_for_every_blob_and_sends_a_byte_of_each() {
    let registry = Arc::new(scripted::Registry::default());
    let pack = noise(5 << 20, 2);
    let pieces = [Piece { offset: 1 << 20, size: 3 << 20 }, Piece { offset: 0, size: 1 << 20 }];
    let chunked = registry.chunked(REPOSITORY, "model.safetensors", &pack, &pieces).expect("stored");
    let plain = registry.plain(REPOSITORY, &model()).expect("stored");
    let cx = CallContext::new();
    let server = serve(Arc::clone(&registry), |_, reply| reply).await;
    // A manifest, a pointer and a pack; a manifest and two files.
    for (reference, requests) in [(&chunked, 3), (&plain, 3)] {
        let before = server.seen().len();
        let files = hub(&server).resolve(reference, &cx).await.expect("resolves");
        files.present(&cx).await.expect("all of it is there");
        assert_eq!(server.seen().len() - before, requests);
    }
    assert!(server.sent() < 10_000, "{} bytes", server.sent());

    let packed = Digest::of(&pack).to_string();
    for (what, is_pack) in [("the pack", true), ("the pointer", false)] {
        let packed = packed.clone();
        let server = serve(Arc::clone(&registry), move |request, reply| {
            let is_blob = request.path.contains("/blobs/");
            if is_blob && request.path.ends_with(&packed) == is_pack {
                unknown("BLOB_UNKNOWN")
            } else {
                reply
            }
        })
        .await;
        let present = async { hub(&server).resolve(&chunked, &cx).await?.present(&cx).await };
        let error = present.await.expect_err(what);
        assert_eq!((error.kind(), error.fault()), (ErrorKind::NotFound, Fault::Operator), "{what}: {error}");
    }
}
