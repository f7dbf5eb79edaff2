//! The registry's protocol: manifests, ranges of blobs, and tokens that run out in
//! the middle of a download.

use std::collections::BTreeMap;
use std::ops::Range;

use albedo_core::digest::Hasher;
use albedo_core::http::{
    Credential, HeaderValue, HttpRequest, HttpResponse, Method, Redirects, StatusCode, header,
};
use albedo_core::{CallContext, Digest, Error, ErrorKind, Fault, Result, Retry};
use reqwest::Url;
use serde::Deserialize;
use tokio::sync::Mutex;

use super::auth::{Challenge, challenge};
use super::manifest::{DOCKER_MANIFEST, MANIFEST, MOST_BYTES};
use super::{RESOLVE, transient};
use crate::hubs::remote::{READ, Remote, ask_range, stated_size};

/// Most bytes of a token's answer.
const MOST_TOKEN: usize = 256 << 10;

/// What a registry answers where a range of a blob was asked for.
pub(super) enum Answer {
    Bytes(Vec<u8>),
    /// The blob has another size than was listed: so many bytes, says the registry.
    OtherSize(u64),
}

/// What a token is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    Pull,
    Push,
}

impl Access {
    fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
        }
    }
}

#[derive(Debug)]
pub(super) struct Registry {
    home: Url,
    tokens_at: Url,
    credential: Option<Credential>,
    remote: Remote,
    /// By repository and access, each with how many came before it.
    tokens: Mutex<BTreeMap<(String, Access), (u64, Credential)>>,
}

impl Registry {
    pub(super) fn new(home: Url, tokens_at: Url, credential: Option<Credential>, remote: Remote) -> Self {
        Self { home, tokens_at, credential, remote, tokens: Mutex::default() }
    }

    pub(super) fn remote(&self) -> &Remote {
        &self.remote
    }

    pub(super) fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// Scheme, host and port, as errors name the registry.
    pub(super) fn server(&self) -> String {
        self.home.origin().ascii_serialization()
    }

    /// `name` without the registry's host, if it begins with one.
    ///
    /// # Errors
    /// The operator's: it names another registry than the configuration.
    pub(super) fn repository<'a>(&self, name: &'a str) -> Result<&'a str> {
        let Some((first, rest)) = name.split_once('/') else { return Ok(name) };
        // As container tools tell a host from a namespace.
        if !first.contains(['.', ':']) && first != "localhost" {
            return Ok(name);
        }
        let host = self.home.host_str().unwrap_or_default();
        let known = match self.home.port() {
            Some(port) => first == format!("{host}:{port}"),
            None => {
                first == host
                    || self.home.port_or_known_default().is_some_and(|port| first == format!("{host}:{port}"))
            }
        };
        if known {
            return Ok(rest);
        }
        Err(Error::new(
            ErrorKind::ConfigInvalid,
            RESOLVE,
            "the reference names another registry than the settings",
        )
        .with_fault(Fault::Operator)
        .with("registry", self.server())
        .with("reference", name)
        .with_hint("leave the host out of the reference, or set `registry` of the hub `oci`"))
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/v2/{path}", self.server())
    }

    /// The manifest's bytes, which have the digest `pinned`.
    pub(super) async fn manifest(
        &self,
        repository: &str,
        pinned: Digest,
        cx: &CallContext,
    ) -> Result<Vec<u8>> {
        let url = self.url(&format!("{repository}/manifests/sha256:{pinned}"));
        let request = [MANIFEST, DOCKER_MANIFEST]
            .into_iter()
            .fold(HttpRequest::get(RESOLVE, url).with_redirects(Redirects::AnyOrigin), |request, kind| {
                request.with_header(header::ACCEPT, HeaderValue::from_static(kind))
            });
        let read = || async {
            let mut answer = self.success(repository, Access::Pull, &request, cx).await?;
            // One that is too large, but pinned, is its author's mistake.
            let bytes = self.remote.body(RESOLVE, &mut answer, 4 * MOST_BYTES, cx).await?;
            if Digest::of(&bytes) == pinned {
                return Ok(bytes);
            }
            Err(transient(ErrorKind::DigestMismatch, RESOLVE, "the manifest is not the pinned one")
                .with("server", self.server())
                .with("found", Digest::of(bytes))
                .with_hint("try again; if it happens again, the registry or the way to it is broken"))
        };
        self.remote.retried(RESOLVE, cx, read).await
    }

    /// Bytes `range` of a blob of `size` bytes; its digest is for the caller to compare.
    pub(super) async fn blob(
        &self,
        repository: &str,
        digest: &str,
        range: Range<u64>,
        size: u64,
        cx: &CallContext,
    ) -> Result<Answer> {
        let request = ask_range(&self.blob_url(repository, digest), &range, size)?;
        let answer = self.authorised(repository, Access::Pull, &request, cx).await?;
        if let Some(stated) = stated_size(&answer).filter(|&stated| stated != size) {
            return Ok(Answer::OtherSize(stated));
        }
        let answer = self.succeeded(&request, answer, cx).await?;
        self.remote.range(&self.server(), answer, &range, size, cx).await.map(Answer::Bytes)
    }

    /// Digest and size of a blob, of which every byte is read, in one request. The
    /// registry says that it has `stated` bytes.
    pub(super) async fn weigh(
        &self,
        repository: &str,
        digest: &str,
        stated: u64,
        cx: &CallContext,
    ) -> Result<(Digest, u64)> {
        let request = HttpRequest::get(READ, self.blob_url(repository, digest));
        let request = request.with_redirects(Redirects::AnyOrigin);
        let mut answer = self.success(repository, Access::Pull, &request, cx).await?;
        let (mut hasher, mut size) = (Hasher::default(), 0);
        let weigh = |chunk: &[u8]| {
            hasher.update(chunk);
            size += chunk.len() as u64;
            if size <= stated {
                return Ok(());
            }
            Err(transient(ErrorKind::Protocol, READ, "the registry sends more bytes than it says")
                .with("server", self.server())
                .with("said", stated))
        };
        self.remote.chunks(READ, &mut answer, cx, weigh).await?;
        Ok((hasher.finish(), size))
    }

    fn blob_url(&self, repository: &str, digest: &str) -> String {
        self.url(&format!("{repository}/blobs/sha256:{digest}"))
    }

    /// The answer to `request`, if it is a success.
    pub(super) async fn success(
        &self,
        repository: &str,
        access: Access,
        request: &HttpRequest,
        cx: &CallContext,
    ) -> Result<HttpResponse> {
        let answer = self.authorised(repository, access, request, cx).await?;
        self.succeeded(request, answer, cx).await
    }

    /// `answer`, which is to `request`, if it is a success.
    pub(super) async fn succeeded(
        &self,
        request: &HttpRequest,
        answer: HttpResponse,
        cx: &CallContext,
    ) -> Result<HttpResponse> {
        if answer.status().is_success() {
            return Ok(answer);
        }
        let (operation, credential) = (request.operation(), self.credential.as_ref());
        Err(self.remote.refusal(operation, &self.server(), answer, credential, cx).await)
    }

    /// Sends `request`, with a new token once the registry asks for one.
    pub(super) async fn authorised(
        &self,
        repository: &str,
        access: Access,
        request: &HttpRequest,
        cx: &CallContext,
    ) -> Result<HttpResponse> {
        let key = (repository.to_owned(), access);
        let known = self.tokens.lock().await.get(&key).cloned();
        let first = match &known {
            Some((_, token)) => request.clone().with_credential(token.clone()),
            None => request.clone(),
        };
        let answer = self.remote.send(first, cx).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let mut asked = answer.headers().get_all(header::WWW_AUTHENTICATE).iter();
        let asked = asked.find_map(|value| challenge(value.to_str().ok()?));
        let Some(asked) = asked else { return Ok(answer) };
        let known = known.map(|(generation, _)| generation);
        match self.renewed(&key, known, asked, request.operation(), cx).await? {
            Some(token) => self.remote.send(request.clone().with_credential(token), cx).await,
            None => Ok(answer),
        }
    }

    /// A token that is newer than the one of `generation`: of many requests that met
    /// its end at once, the first asks for the next.
    async fn renewed(
        &self,
        key: &(String, Access),
        generation: Option<u64>,
        asked: Challenge,
        operation: &str,
        cx: &CallContext,
    ) -> Result<Option<Credential>> {
        let mut tokens = self.tokens.lock().await;
        let next = match tokens.get(key) {
            Some((newer, token)) if generation.is_none_or(|generation| generation < *newer) => {
                return Ok(Some(token.clone()));
            }
            Some((older, _)) => older + 1,
            None => 0,
        };
        let token = match asked {
            Challenge::Basic => match &self.credential {
                Some(credential) if next == 0 => credential.clone(),
                _ => return Ok(None),
            },
            Challenge::Bearer { realm, service } => {
                self.token(key, &realm, service.as_deref(), operation, cx).await?
            }
        };
        tokens.insert(key.clone(), (next, token.clone()));
        Ok(Some(token))
    }

    /// Asks the token service at `realm`, which has to be the configured one.
    async fn token(
        &self,
        (repository, access): &(String, Access),
        realm: &str,
        service: Option<&str>,
        operation: &str,
        cx: &CallContext,
    ) -> Result<Credential> {
        let url = Url::parse(realm).ok().filter(|url| url.origin() == self.tokens_at.origin());
        let Some(mut url) = url else {
            return Err(Error::new(
                ErrorKind::Unavailable,
                operation,
                "the registry sends for a token to another server",
            )
            .with_fault(Fault::Operator)
            .with_retry(Retry::Never)
            .with("server", self.server())
            .with("token service", origin_of(realm))
            .with_hint("if that is right, set `token_service` of the hub `oci` to its address"));
        };
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", &format!("repository:{repository}:{}", access.actions()));
        }
        let request = HttpRequest::new(Method::GET, operation, url.as_str());
        let request = match &self.credential {
            Some(credential) => request.with_credential(credential.clone()),
            None => request,
        };
        let mut answer = self.remote.send(request, cx).await?;
        let server = url.origin().ascii_serialization();
        let status = answer.status();
        if !status.is_success() {
            let refusal = self.remote.refusal(operation, &server, answer, self.credential.as_ref(), cx).await;
            if status != StatusCode::NOT_FOUND {
                return Err(refusal);
            }
            // It knows who may read, and is asked at an address that does not depend on what is read.
            return Err(transient(ErrorKind::Unavailable, operation, "the registry's token service is away")
                .with("token service", server)
                .with_hint(
                    "try again; if it stays away, check `registry` and `token_service` of the hub `oci`",
                ));
        }
        let bytes = self.remote.body(operation, &mut answer, MOST_TOKEN, cx).await?;
        let token = serde_json::from_slice::<Token>(&bytes).ok();
        let token = token.and_then(|token| token.token.or(token.access_token));
        let token = token.ok_or_else(|| {
            transient(ErrorKind::Protocol, operation, "the answer of the token service holds no token")
                .with("server", &server)
        })?;
        Credential::bearer("the registry's token", &token)
    }
}

/// Whether a registry can have a repository called `name`. Registries answer others with a 404
/// that has no code, as a proxy's has none.
// Source: `<name>` in the OCI distribution specification 1.1.
pub(super) fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let between = |text: &str| matches!(text, "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    let part =
        |part: &str| part.starts_with(letter) && part.ends_with(letter) && part.split(letter).all(between);
    name.split('/').all(part)
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// An address as errors name it.
fn origin_of(text: &str) -> String {
    Url::parse(text).map_or_else(|_| "no address".into(), |url| url.origin().ascii_serialization())
}
