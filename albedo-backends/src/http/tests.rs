use albedo_core::http::{Credential, StatusCode, header};
use rustls::crypto::CryptoProvider;

use super::*;
use crate::http::conformance::server::{Reply, Seen, Server};

const TOKEN: &str = "tok-0123456789-never-told";

fn client() -> Client {
    Client::new(Proxies::none(), Roots::System)
}

fn token() -> Credential {
    Credential::bearer("TOKEN", TOKEN).expect("a token")
}

async fn server(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
    Server::plain(answer).await.expect("a free port")
}

fn at(server: &Server, path: &str) -> String {
    format!("http://{}{path}", server.address())
}

/// The header `name` of every request.
fn sent(server: &Server, name: &str) -> Vec<Option<String>> {
    let value = |seen: Seen| Some(seen.headers.into_iter().find(|(known, _)| known == name)?.1);
    server.seen().into_iter().map(value).collect()
}

async fn get(request: HttpRequest) -> Result<(StatusCode, Vec<u8>)> {
    let mut answer = client().send(request, &CallContext::new()).await?;
    Ok((answer.status(), answer.read(1 << 20).await?))
}

#[tokio::test]
async fn redirects_are_followed_as_the_request_says() {
    let there = server(|_| Reply::ok("there")).await;
    let elsewhere = at(&there, "/blob");
    let here = server(move |seen| match seen.target.as_str() {
        "/away" => Reply::redirect(307, &elsewhere),
        "/near" => Reply::redirect(302, "found"),
        _ => Reply::ok("here"),
    })
    .await;
    let request = |path: &str, redirects| {
        HttpRequest::get("fetch", at(&here, path))
            .with_credential(token())
            .with_header(header::RANGE, "bytes=0-1".parse().expect("a value"))
            .with_header(header::COOKIE, "mine".parse().expect("a value"))
            .with_redirects(redirects)
    };
    let status = |answer: Result<(StatusCode, Vec<u8>)>| answer.expect("an answer").0.as_u16();
    assert_eq!(status(get(request("/near", Redirects::Refuse)).await), 302);
    assert_eq!(status(get(request("/near", Redirects::SameOrigin)).await), 200);
    let error = get(request("/away", Redirects::SameOrigin)).await.expect_err("another server");
    assert!(error.to_string().contains("redirects to another server"), "{error}");
    assert!(there.seen().is_empty());

    let (found, body) = get(request("/away", Redirects::AnyOrigin)).await.expect("followed");
    assert_eq!((found.as_u16(), body.as_slice()), (200, &b"there"[..]));
    assert_eq!(sent(&there, "range"), [Some("bytes=0-1".to_owned())]);
    assert_eq!((sent(&there, "authorization"), sent(&there, "cookie")), (vec![None], vec![None]));
    assert!(
        sent(&here, "authorization").iter().all(|sent| sent.as_deref() == Some(&*format!("Bearer {TOKEN}")))
    );

    let post = HttpRequest::post_json("send", at(&here, "/near"), "{}");
    assert_eq!(status(get(post.with_redirects(Redirects::AnyOrigin)).await), 302);
}

#[tokio::test]
async fn plain_http_needs_no_certificates_and_tls_says_what_is_missing() {
    let server = server(|_| Reply::ok("hello")).await;
    let broken = Roots::Only(Arc::from(&b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"[..]));
    let client = Client::new(Proxies::none(), broken);
    let cx = CallContext::new();
    let plain = client.send(HttpRequest::get("fetch", at(&server, "/")), &cx).await.expect("an answer");
    assert!(plain.status().is_success());
    let error = client.send(HttpRequest::get("fetch", "https://models.test/"), &cx).await.expect_err("none");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::Unavailable, Fault::Operator));
    assert!(error.to_string().contains("SSL_CERT_FILE"), "{error}");
    // The process may still choose another.
    assert!(CryptoProvider::get_default().is_none());
}

#[tokio::test]
async fn what_is_refused_is_refused_before_anything_is_sent() {
    for (url, words) in [
        ("models.test/v1", "no URL"),
        ("ftp://models.test/", "https:// or http://"),
        ("https://user:hush@models.test/", "a user or a password"),
        ("http://models.test/", "plain HTTP to another machine"),
        ("http://10.0.0.1/", "plain HTTP to another machine"),
        ("http://127.0.0.1.models.test/", "plain HTTP to another machine"),
    ] {
        let error = get(HttpRequest::get("fetch", url).with_credential(token())).await.expect_err(words);
        assert_eq!((error.kind(), error.fault()), (ErrorKind::ConfigInvalid, Fault::Operator));
        assert!(error.to_string().contains(words) && !error.to_string().contains("hush"), "{error}");
    }
    let allowed = HttpRequest::get("fetch", "http://models.test/").with_credential(token());
    let error = get(allowed.with_plain_credential(true)).await.expect_err("there is no such machine");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn a_call_that_is_stopped_sends_nothing() {
    let server = server(|_| Reply::ok("hello")).await;
    let cx = CallContext::new();
    cx.cancel();
    let error = client().send(HttpRequest::get("fetch", at(&server, "/")), &cx).await.expect_err("stopped");
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(server.seen().is_empty());
}
