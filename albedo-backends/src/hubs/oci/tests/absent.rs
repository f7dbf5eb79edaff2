//! What means that a registry does not have a model, or does not show it.

use super::*;

#[tokio::test]
async fn no_answer_but_that_of_what_is_asked_for_makes_a_model_absent() {
    let reference = HubRef::new("oci", REPOSITORY, Revision::Sha256(Digest::of("x"))).expect("a reference");
    let resolve = async |server: &Server| {
        hub(server).resolve(&reference, &CallContext::new()).await.expect_err("is not there")
    };
    for status in [404, 401, 403, 307, 500] {
        let registry = scripted::Registry::with_tokens(0);
        let server = Server::start(0, move |request| match request.path.as_str() {
            "/service/token" => Reply::new(status, ""),
            _ => registry.answer(request),
        });
        let error = resolve(&server.await.expect("listens")).await;
        assert_eq!((error.kind(), error.artefact()), (ErrorKind::Unavailable, None), "{status}: {error}");
    }
    // No status is the registry's word.
    for (status, body) in [
        (404, ""),
        (404, "<html>404 Not Found</html>"),
        (404, "default backend - 404"),
        (404, r#"{ "message": "no Route matched with those values" }"#),
        (404, r#"{ "errors": [{ "code": "NOT_FOUND", "message": "no such route" }] }"#),
        (401, ""),
        (403, ""),
        (307, ""),
    ] {
        let server = Server::start(0, move |_| Reply::new(status, body)).await.expect("listens");
        let error = resolve(&server).await;
        let got = (error.kind(), error.artefact(), error.is_retryable());
        assert_eq!(got, (ErrorKind::Unavailable, None, status == 404), "{status} {body}: {error}");
        assert_eq!(server.seen().len(), if status == 404 { 3 } else { 1 }, "{status} {body}: {error}");
    }
    // The registry itself may say it. Source: docker-registry 2.8.2; the specification; Harbor.
    for (code, message) in [
        ("MANIFEST_UNKNOWN", "manifest unknown"),
        ("NAME_UNKNOWN", "repository name not known to registry"),
        ("NOT_FOUND", "artifact owner/model@sha256:00 not found"),
        ("NOT_FOUND", "repository owner/model not found"),
    ] {
        let said = json!({ "errors": [{ "code": code, "message": message, "detail": {} }] });
        let server = Server::start(0, move |_| Reply::json(404, &said)).await.expect("listens");
        let error = resolve(&server).await;
        assert_eq!((error.kind(), error.fault()), (ErrorKind::NotFound, Fault::Operator), "{code}: {error}");
        assert_eq!(server.seen().len(), 1, "{code}: {error}");
    }
    // So real registries answer without a key for what they do not have, or do not show to everybody.
    for (status, code) in [(401, "UNAUTHORIZED"), (403, "DENIED")] {
        let said = json!({ "errors": [{ "code": code, "message": "requested access is denied" }] });
        let by_token = said.clone();
        let registry = scripted::Registry::with_tokens(0);
        let service = Server::start(0, move |request| match request.path.as_str() {
            "/service/token" => Reply::json(status, &by_token),
            _ => registry.answer(request),
        });
        let itself = Server::start(0, move |_| Reply::json(status, &said));
        for server in [service.await.expect("listens"), itself.await.expect("listens")] {
            let error = resolve(&server).await;
            assert_eq!((error.kind(), error.artefact()), (ErrorKind::NotFound, None), "{code}: {error}");
            // With a key it may be the key that is meant.
            let key = Credential::basic("HUB_PASSWORD", "aHVzaDpodXNo").expect("a credential");
            let config = OciHubConfig { registry: server.url(), ..OciHubConfig::default() };
            let hub = OciHub::new(&config, Some(key), remote()).expect("a hub");
            let error = hub.resolve(&reference, &CallContext::new()).await.expect_err("refused");
            assert_eq!((error.kind(), error.fault()), (ErrorKind::Unavailable, Fault::Operator), "{error}");
        }
    }
}

#[tokio::test]
async fn a_name_that_no_registry_can_have_is_absent_without_a_request() {
    // docker-registry 2.8.2 answers for these as if it had no such route: 404 without a code.
    let names = ["owner/a___b", "owner/a._b", "_x/model", "owner/model_", "owner/_"];
    let server = Server::start(0, |_| Reply::new(404, "404 page not found")).await.expect("listens");
    let revision = Revision::Sha256(Digest::of("x"));
    let named = |name: &str| HubRef::new("oci", name, revision).expect("a reference");
    let resolve = async |name: &str| {
        hub(&server).resolve(&named(name), &CallContext::new()).await.expect_err("is not there")
    };
    for name in names {
        for error in [resolve(name).await, hub(&server).accepts(&named(name)).expect_err(name)] {
            assert_eq!((error.kind(), error.fault()), (ErrorKind::NotFound, Fault::Operator), "{error}");
        }
    }
    let possible = ["owner/a--b", "a/b__c", "a/b_c/d.e", "model", "0/1-2"];
    for name in possible {
        hub(&server).accepts(&named(name)).expect("it may be uploaded");
    }
    assert!(server.seen().is_empty(), "nobody is asked");
    for name in possible {
        let error = resolve(name).await;
        assert_eq!((error.kind(), error.fault()), (ErrorKind::Unavailable, Fault::Infrastructure), "{error}");
    }
}
