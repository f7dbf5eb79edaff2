use std::sync::Arc;

use albedo_core::CallContext;
use albedo_core::ErrorKind;
use albedo_core::conformance::PATIENCE;
use albedo_core::http::{Credential, HttpRequest, HttpTransport, Redirects};

use super::*;
use crate::http::{Client, Proxies, Roots, redact};

/// Albedo's own client, and what it does with redirects.
struct Ours(Redirects);

#[async_trait]
impl Fetch for Ours {
    async fn get(&self, surroundings: &Surroundings, url: &str) -> Result<Vec<u8>> {
        let Surroundings { roots, environment, token, most } = surroundings.clone();
        let roots = roots.map_or(Roots::System, |pem| Roots::Only(Arc::from(pem.into_bytes())));
        let client = Client::new(Proxies::read(|name| environment.get(name).cloned()), roots);
        let mut request = HttpRequest::get("read a file", url).with_redirects(self.0);
        if let Some(token) = &token {
            request = request.with_credential(Credential::bearer("TOKEN", token)?);
        }
        let mut answer = client.send(request, &CallContext::new()).await?;
        let (status, body) = (answer.status(), answer.read(most).await?);
        if status.is_success() {
            return Ok(body);
        }
        let secrets: Vec<_> = token.iter().map(String::as_str).collect();
        let words = redact(&String::from_utf8_lossy(&body), &secrets, []);
        Err(Error::new(ErrorKind::Unavailable, "read a file", format!("{status}: {words}")))
    }
}

#[tokio::test]
async fn our_client_conforms() {
    for redirects in [Redirects::Refuse, Redirects::SameOrigin, Redirects::AnyOrigin] {
        let checked = check_client(&Ours(redirects), PATIENCE).await;
        checked.unwrap_or_else(|violation| panic!("{redirects:?}: {violation}"));
    }
}

/// A client with a flaw: what a library does whose author thought of less.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Flaw {
    TrustsAnybody,
    IgnoresProxies,
    AsksProxiesForAll,
    TellsTheProxy,
    TakesTheTokenAlong,
    LeavesTls,
    PrintsWhatItHears,
    PrintsTheAddress,
    ReadsForEver,
}

/// What each flaw breaks is found by a client that is ours but for it.
struct Flawed(Flaw);

#[async_trait]
impl Fetch for Flawed {
    #[expect(clippy::disallowed_methods, reason = "a client as it should not be")]
    async fn get(&self, surroundings: &Surroundings, url: &str) -> Result<Vec<u8>> {
        let failed = |error: reqwest::Error| Error::new(ErrorKind::Unavailable, "get", error.to_string());
        let mut given = surroundings.clone();
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let client = client.tls_backend_preconfigured(Roots::none().expect("settings"));
        match self.0 {
            Flaw::TrustsAnybody if url.starts_with("https") && given.environment.is_empty() => {
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider));
                let config = config.with_safe_default_protocol_versions().expect("versions");
                let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)));
                let client = client.tls_backend_preconfigured(config.with_no_client_auth()).build();
                let answer = client.map_err(failed)?.get(url).send().await.map_err(failed)?;
                return Ok(answer.bytes().await.map_err(failed)?.to_vec());
            }
            Flaw::IgnoresProxies => given.environment.clear(),
            Flaw::AsksProxiesForAll => drop(given.environment.remove("NO_PROXY")),
            Flaw::TellsTheProxy if url.starts_with("http:") && given.token.is_some() => {
                let proxy = given.environment.get("HTTP_PROXY").cloned().unwrap_or_else(|| url.to_owned());
                let client =
                    client.proxy(reqwest::Proxy::all(proxy).map_err(failed)?).build().map_err(failed)?;
                let answer = client.get(url).bearer_auth(TOKEN).send().await.map_err(failed)?;
                return Ok(answer.bytes().await.map_err(failed)?.to_vec());
            }
            Flaw::TakesTheTokenAlong
                if given.token.is_some() && given.environment.is_empty() && url.starts_with("http:") =>
            {
                let client = client.build().map_err(failed)?;
                let answer = client.get(url).bearer_auth(TOKEN).send().await.map_err(failed)?;
                if let Some(target) = answer.headers().get("location").and_then(|to| to.to_str().ok()) {
                    let answer = client.get(target).bearer_auth(TOKEN).send().await.map_err(failed)?;
                    return Ok(answer.bytes().await.map_err(failed)?.to_vec());
                }
            }
            Flaw::LeavesTls if url.starts_with("https://localhost") => {
                let answer = Ours(Redirects::Refuse).get(&given, url).await;
                // Where to is in no error: it is the suite's only plain server.
                if answer.as_ref().is_err_and(|error| error.message().starts_with("302")) {
                    return Ok(b"hello".to_vec());
                }
                return answer;
            }
            Flaw::PrintsWhatItHears if url.contains("signature") => {
                let client = client.build().map_err(failed)?;
                let answer = client.get(url).bearer_auth(TOKEN).send().await.map_err(failed)?;
                let heard = answer.text().await.map_err(failed)?;
                return Err(Error::new(ErrorKind::Unavailable, "get", heard));
            }
            Flaw::PrintsTheAddress => {
                let answer = Ours(Redirects::Refuse).get(&given, url).await;
                return answer.map_err(|error| error.with("url", url));
            }
            Flaw::ReadsForEver => given.most = usize::MAX,
            _ => {}
        }
        Ours(Redirects::Refuse).get(&given, url).await
    }
}

/// Believes every certificate.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn every_flaw_is_found() {
    for (flaw, promise) in [
        (Flaw::TrustsAnybody, "a certificate of an unknown authority is refused"),
        (Flaw::IgnoresProxies, "a plain request goes through HTTP_PROXY"),
        (Flaw::AsksProxiesForAll, "NO_PROXY goes around the proxy"),
        (Flaw::TellsTheProxy, "no credential goes over plain HTTP to another machine"),
        (Flaw::TakesTheTokenAlong, "no credential follows a redirect to another server"),
        (Flaw::LeavesTls, "a redirect from TLS to plain HTTP is not followed"),
        (Flaw::PrintsWhatItHears, "no error holds a secret"),
        (Flaw::PrintsTheAddress, "no error holds a secret"),
        (Flaw::ReadsForEver, "an answer that is too long is refused"),
    ] {
        let found = check_client(&Flawed(flaw), PATIENCE).await.expect_err("a flaw");
        assert_eq!(found.promise(), promise, "{flaw:?}: {found}");
    }
}

#[tokio::test]
async fn our_client_speaks_http_1_to_servers_that_offer_http_2() {
    let authority = Authority::new().expect("an authority");
    let mut config = (*authority.certificate("localhost").expect("a certificate")).clone();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Were HTTP/2 chosen, its frames would be no request that this server reads.
    let server = Server::tls(Arc::new(config), |_| Reply::ok("one")).await.expect("listens");
    let client = Client::new(Proxies::none(), Roots::Only(Arc::from(authority.pem().into_bytes())));
    let request = HttpRequest::get("read", server.url("https"));
    let mut answer = client.send(request, &CallContext::new()).await.expect("an answer");
    assert_eq!(answer.read(10).await.expect("a body"), b"one");
    assert!(server.seen().iter().all(|seen| seen.method == "GET"), "{:?}", server.seen());
}
