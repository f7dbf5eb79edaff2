//! What every HTTP client of albedo must do, checked over real connections: our
//! own [`Client`](super::Client), and any library that brings one.
//!
//! The suite serves on this machine: TLS with an authority that it makes, an
//! HTTP proxy, servers that redirect, echo what they are sent, and never end. A
//! name under `.test`, which nobody can register, stands for another machine: it
//! is reached through the suite's proxy or not at all.

use std::collections::BTreeMap;
use std::time::Duration;

use albedo_core::conformance::Violation;
use albedo_core::{Error, Result};
use async_trait::async_trait;

mod certificates;
pub(super) mod server;

use certificates::Authority;
use server::{Reply, Server};

/// The token that no error, no proxy and no other server may see.
const TOKEN: &str = "tok-0123456789-never-told";

/// The password of the proxy.
const PASSWORD: &str = "hush-hush-proxy";

/// How `user` and it are sent.
const BASIC: &str = "dXNlcjpodXNoLWh1c2gtcHJveHk=";

/// Another machine.
const ELSEWHERE: &str = "models.test";

/// A client, as the suite uses it.
#[async_trait]
pub trait Fetch: Sync {
    /// Makes a client in `surroundings`, and reads `url` with `GET`.
    ///
    /// # Errors
    /// What the client says, also for a status that is no success.
    async fn get(&self, surroundings: &Surroundings, url: &str) -> Result<Vec<u8>>;
}

/// What a client is given.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The only authority to trust, as PEM; the system's if there is none.
    pub roots: Option<String>,
    /// Variables of the environment: `HTTP_PROXY` and its like.
    pub environment: BTreeMap<String, String>,
    /// The bearer token that authorises the request.
    pub token: Option<String>,
    /// Most bytes of an answer that are read.
    pub most: usize,
}

impl Surroundings {
    fn new() -> Self {
        Self { most: 1 << 20, ..Self::default() }
    }

    fn trusting(mut self, authority: &Authority) -> Self {
        self.roots = Some(authority.pem());
        self
    }

    fn set(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    fn authorised(mut self) -> Self {
        self.token = Some(TOKEN.into());
        self
    }
}

type Checked<T = ()> = Result<T, Violation>;

/// Checks `client`, waiting at most `patience` for each request.
///
/// - **TLS**: a certificate of the trusted authority is accepted; one of another
///   authority, for another host, or that has expired is refused.
/// - **Proxy**: plain requests are handed to `HTTP_PROXY`, TLS goes through
///   `HTTPS_PROXY` in a tunnel, with the user and password that they name;
///   `NO_PROXY` goes around; a kind of proxy that is not supported is refused and
///   named.
/// - **Credential**: sent to the server asked for, never over plain HTTP to
///   another machine, to a proxy, or, after a redirect, to another server.
/// - **Redirects**: never from TLS to plain HTTP; a loop ends.
/// - **Redaction**: no error holds the token, a proxy's password or a signature.
/// - **Bounds**: an answer that is too long is refused.
///
/// # Errors
/// The first promise found broken.
pub async fn check_client(client: &dyn Fetch, patience: Duration) -> Checked {
    let suite = Suite { client, patience };
    suite.tls().await?;
    suite.proxy().await?;
    suite.credential().await?;
    suite.redirects().await?;
    suite.redaction().await?;
    suite.bounds().await
}

struct Suite<'a> {
    client: &'a dyn Fetch,
    patience: Duration,
}

impl Suite<'_> {
    async fn get(&self, surroundings: &Surroundings, url: &str) -> Checked<Result<Vec<u8>>> {
        match tokio::time::timeout(self.patience, self.client.get(surroundings, url)).await {
            Ok(answer) => Ok(answer),
            Err(_) => broken("every request ends", format!("{url} takes more than {:?}", self.patience)),
        }
    }

    async fn reads(&self, promise: &'static str, surroundings: &Surroundings, url: &str) -> Checked {
        match self.get(surroundings, url).await? {
            Ok(body) if body == b"hello" => Ok(()),
            Ok(body) => broken(promise, format!("{} other bytes", body.len())),
            Err(error) => broken(promise, error.to_string()),
        }
    }

    async fn fails(&self, promise: &'static str, surroundings: &Surroundings, url: &str) -> Checked<Error> {
        match self.get(surroundings, url).await? {
            Ok(_) => broken(promise, "an answer"),
            Err(error) => Ok(error),
        }
    }

    async fn tls(&self) -> Checked {
        let (authority, other) = (fixture(Authority::new())?, fixture(Authority::new())?);
        let hello = |_: &server::Seen| Reply::ok("hello");
        let secure = async |certificate| fixture(Server::tls(certificate, hello).await);
        let good = secure(fixture(authority.certificate("localhost"))?).await?;
        let trusting = Surroundings::new().trusting(&authority);
        self.reads("a certificate of the trusted authority is accepted", &trusting, &good.url("https"))
            .await?;
        let refused = "a certificate of an unknown authority is refused";
        self.fails(refused, &Surroundings::new().trusting(&other), &good.url("https")).await?;
        self.fails(refused, &Surroundings::new(), &good.url("https")).await?;
        let misnamed = secure(fixture(authority.certificate(ELSEWHERE))?).await?;
        self.fails("a certificate for another host is refused", &trusting, &misnamed.url("https")).await?;
        let expired = secure(fixture(authority.expired("localhost"))?).await?;
        self.fails("a certificate that has expired is refused", &trusting, &expired.url("https")).await?;
        for server in [misnamed, expired] {
            ensure(server.seen().is_empty(), "nothing is sent to a server whose certificate is refused")?;
        }
        Ok(())
    }

    async fn proxy(&self) -> Checked {
        let authority = fixture(Authority::new())?;
        let certificate = fixture(authority.certificate(ELSEWHERE))?;
        let secure = fixture(Server::tls(certificate, |_| Reply::ok("hello")).await)?;
        let proxy = fixture(Server::proxy(secure.address(), |_| Reply::ok("hello")).await)?;
        let address = proxy.url("http");
        let plain = Surroundings::new().set("HTTP_PROXY", &address);
        let url = format!("http://{ELSEWHERE}/hello");
        self.reads("a plain request goes through HTTP_PROXY", &plain, &url).await?;
        let asked = proxy.seen().iter().any(|seen| seen.target == url);
        ensure(asked, "a proxy is handed the whole address")?;

        let tunnel = Surroundings::new().trusting(&authority).set("HTTPS_PROXY", &address).authorised();
        let url = format!("https://{ELSEWHERE}/hello");
        self.reads("TLS goes through HTTPS_PROXY in a tunnel", &tunnel, &url).await?;
        let asked = proxy.seen().iter().any(|seen| seen.method == "CONNECT");
        ensure(asked, "TLS goes through HTTPS_PROXY in a tunnel")?;
        ensure(!proxy.saw(TOKEN), "a proxy is not shown the credential of what it tunnels")?;
        ensure(secure.saw(TOKEN), "the credential goes to the server asked for")?;

        let keyed = address.replace("http://", &format!("http://user:{PASSWORD}@"));
        let promise = "a proxy's user and password are sent to it and to nobody else";
        let plain_keyed = Surroundings::new().set("HTTP_PROXY", &keyed);
        self.reads(promise, &plain_keyed, &format!("http://{ELSEWHERE}/hello")).await?;
        ensure(proxy.seen().last().is_some_and(|seen| seen.holds(BASIC)), promise)?;
        self.reads(promise, &tunnel.set("HTTPS_PROXY", &keyed), &url).await?;
        ensure(proxy.seen().last().is_some_and(|seen| seen.holds(BASIC)), promise)?;
        ensure(!secure.saw(BASIC), promise)?;

        let before = proxy.seen().len();
        let around = plain.clone().set("NO_PROXY", ELSEWHERE);
        self.fails("NO_PROXY goes around the proxy", &around, &format!("http://{ELSEWHERE}/")).await?;
        ensure(proxy.seen().len() == before, "NO_PROXY goes around the proxy")?;
        let socks = Surroundings::new().set("ALL_PROXY", "socks5://127.0.0.1:9");
        let promise = "a kind of proxy that is not supported is named";
        let error = self.fails(promise, &socks, &format!("http://{ELSEWHERE}/")).await?;
        if !error.to_string().contains("socks5") {
            return broken(promise, error.to_string());
        }
        Ok(())
    }

    async fn credential(&self) -> Checked {
        let server = fixture(Server::plain(|_| Reply::ok("hello")).await)?;
        let authorised = Surroundings::new().authorised();
        self.reads("a credential may go to this machine", &authorised, &server.url("http")).await?;
        ensure(server.saw(TOKEN), "the credential goes to the server asked for")?;
        let proxy = fixture(Server::proxy(server.address(), |_| Reply::ok("hello")).await)?;
        let away = authorised.set("HTTP_PROXY", proxy.url("http"));
        let promise = "no credential goes over plain HTTP to another machine";
        self.fails(promise, &away, &format!("http://{ELSEWHERE}/")).await?;
        ensure(!proxy.saw(TOKEN), promise)
    }

    async fn redirects(&self) -> Checked {
        let other = fixture(Server::plain(|_| Reply::ok("hello")).await)?;
        for status in [301, 302, 303, 307, 308] {
            let target = other.url("http");
            let here = fixture(Server::plain(move |_| Reply::redirect(status, &target)).await)?;
            // Whether it is followed is the client's choice.
            drop(self.get(&Surroundings::new().authorised(), &here.url("http")).await?);
            ensure(here.saw(TOKEN), "the credential goes to the server asked for")?;
            ensure(!other.saw(TOKEN), "no credential follows a redirect to another server")?;
        }

        let authority = fixture(Authority::new())?;
        let plain = fixture(Server::plain(|_| Reply::ok("hello")).await)?;
        let target = plain.url("http");
        let certificate = fixture(authority.certificate("localhost"))?;
        let secure = fixture(Server::tls(certificate, move |_| Reply::redirect(302, &target)).await)?;
        let trusting = Surroundings::new().trusting(&authority).authorised();
        let promise = "a redirect from TLS to plain HTTP is not followed";
        self.fails(promise, &trusting, &secure.url("https")).await?;
        ensure(plain.seen().is_empty(), promise)?;

        let circle = fixture(Server::plain(|seen| Reply::redirect(302, &seen.target)).await)?;
        self.fails("a circle of redirects ends", &Surroundings::new(), &circle.url("http")).await?;
        Ok(())
    }

    async fn redaction(&self) -> Checked {
        let echo = |status| {
            move |seen: &server::Seen| {
                let heard = seen.headers.iter().map(|(name, value)| format!("{name}: {value}; "));
                let words = heard.chain([seen.target.clone()]).collect::<String>();
                Reply::status(status, &serde_json::json!({ "error": { "message": words } }).to_string())
            }
        };
        let authorised = Surroundings::new().authorised();
        for status in [400, 401, 403, 500] {
            let server = fixture(Server::plain(echo(status)).await)?;
            let url = format!("{}?signature={TOKEN}", server.url("http"));
            let error = self.fails("a refusal is an error", &authorised, &url).await?;
            told(&error, TOKEN)?;
        }
        let closed = fixture(Server::plain(|_| Reply::ok("")).await)?.url("http");
        let url = format!("{closed}?signature={TOKEN}");
        told(&self.fails("a server that is gone is an error", &authorised, &url).await?, TOKEN)?;

        let proxy = fixture(Server::plain(echo(407)).await)?;
        let address = proxy.url("http").replace("http://", &format!("http://user:{PASSWORD}@"));
        for (variable, scheme) in [("HTTP_PROXY", "http"), ("HTTPS_PROXY", "https")] {
            let through = Surroundings::new().set(variable, &address);
            let url = format!("{scheme}://{ELSEWHERE}/");
            told(&self.fails("a proxy's refusal is an error", &through, &url).await?, PASSWORD)?;
        }
        let gone = format!("http://user:{PASSWORD}@127.0.0.1:9");
        let through = Surroundings::new().set("ALL_PROXY", gone);
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{ELSEWHERE}/");
            told(&self.fails("a proxy that is gone is an error", &through, &url).await?, PASSWORD)?;
        }
        Ok(())
    }

    async fn bounds(&self) -> Checked {
        let promise = "an answer that is too long is refused";
        let server = fixture(Server::plain(|_| Reply::ok(&"x".repeat(4 << 20))).await)?;
        self.fails(promise, &Surroundings::new(), &server.url("http")).await?;
        let server = fixture(Server::plain(|_| Reply::unmeasured(4 << 20)).await)?;
        self.fails(promise, &Surroundings::new(), &server.url("http")).await?;
        Ok(())
    }
}

/// No text of `error` holds `secret`.
fn told(error: &Error, secret: &str) -> Checked {
    let text = format!("{error} {error:?}");
    for secret in [secret, BASIC] {
        if text.contains(secret) {
            return broken("no error holds a secret", text.replace(secret, "[the secret]"));
        }
    }
    Ok(())
}

fn ensure(kept: bool, promise: &'static str) -> Checked {
    if kept { Ok(()) } else { broken(promise, "the opposite") }
}

fn broken<T>(promise: &'static str, found: impl Into<String>) -> Checked<T> {
    Err(Violation::new(promise, found))
}

/// What the suite itself needs.
fn fixture<T>(made: std::io::Result<T>) -> Checked<T> {
    made.or_else(|error| broken("the suite can serve on this machine", error.to_string()))
}

#[cfg(test)]
mod tests;
