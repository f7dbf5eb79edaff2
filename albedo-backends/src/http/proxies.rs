//! The proxies that requests go through.

use std::fmt;

use albedo_core::{Error, ErrorKind, Fault, Result};
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

use super::is_loopback;

/// Proxies by the scheme of an address, as curl and most programs read them from
/// the environment: `http_proxy`, `https_proxy`, `all_proxy` for both, and
/// `no_proxy`, a list of domains, addresses and networks that are reached
/// without; `*` is all. Names in lower case come before those in upper case.
/// This machine is always reached without.
///
/// A proxy is an `http` or `https` address, perhaps with a user and a password.
/// Another one, such as `socks5`, is refused when a request would go through it:
/// it is never gone around.
#[derive(Clone, Default)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    bypass: String,
}

#[derive(Clone)]
struct Proxy {
    /// The variable that names it.
    variable: String,
    /// Or why it is none.
    url: Result<Url, String>,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |proxy: &Option<Proxy>| proxy.as_ref().map(|proxy| proxy.variable.clone());
        f.debug_struct("Proxies")
            .field("http", &name(&self.http))
            .field("https", &name(&self.https))
            .field("bypass", &self.bypass)
            .finish()
    }
}

impl Proxies {
    /// No proxies.
    pub fn none() -> Self {
        Self::default()
    }

    /// The proxies of the environment.
    pub fn from_env() -> Self {
        Self::read(|name| std::env::var(name).ok())
    }

    /// The proxies that the variables with the values `variable` name.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        // A CGI script's HTTP_PROXY is a header of the request: httpoxy.org.
        let cgi = set("REQUEST_METHOD").is_some();
        let named = |name: &str| {
            let upper = name.to_ascii_uppercase();
            let read = |name: String| Some(Proxy::new(set(&name)?.trim(), name));
            read(name.to_owned()).or_else(|| if cgi && name == "http_proxy" { None } else { read(upper) })
        };
        Self {
            http: named("http_proxy").or_else(|| named("all_proxy")),
            https: named("https_proxy").or_else(|| named("all_proxy")),
            bypass: set("no_proxy").or_else(|| set("NO_PROXY")).unwrap_or_default(),
        }
    }

    /// The proxy that a request to `url` goes through.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], the operator's: it is none that can be gone
    /// through.
    pub(super) fn through(&self, url: &Url) -> Result<Option<&Url>> {
        let proxy = if url.scheme() == "https" { &self.https } else { &self.http };
        let Some(Proxy { variable, url: proxy }) = proxy else { return Ok(None) };
        if is_loopback(url) || self.bypasses(url) {
            return Ok(None);
        }
        proxy.as_ref().map(Some).map_err(|message| {
            Error::new(ErrorKind::ConfigInvalid, "go through the proxy", message)
                .with_fault(Fault::Operator)
                .with("variable", variable)
                .with_hint("set it to the address of an HTTP proxy, or name the server in `NO_PROXY`")
        })
    }

    fn bypasses(&self, url: &Url) -> bool {
        let matcher = Matcher::builder().all("http://proxy").no(self.bypass.as_str()).build();
        url.as_str().parse().is_ok_and(|uri| matcher.intercept(&uri).is_none())
    }

    /// The passwords of the proxies, as they are and as they were written.
    pub(super) fn passwords(&self) -> Vec<String> {
        let urls =
            [&self.http, &self.https].into_iter().flatten().filter_map(|proxy| proxy.url.as_ref().ok());
        urls.filter_map(|url| url.password().map(str::to_owned)).collect()
    }
}

impl Proxy {
    fn new(text: &str, variable: String) -> Self {
        let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = match Url::parse(&whole) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
            Ok(url) => Err(format!("a proxy of the kind `{}` is not supported", url.scheme())),
            Err(_) => Err("the proxy's address is no URL".to_owned()),
        };
        Self { variable, url }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Proxies {
        let variables = variables.to_vec();
        Proxies::read(move |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn through(variables: &[(&str, &str)], url: &str) -> Option<String> {
        let url = Url::parse(url).expect("a URL");
        proxies(variables).through(&url).expect("usable").map(ToString::to_string)
    }

    #[test]
    fn a_scheme_has_its_proxy() {
        let both =
            [("HTTP_PROXY", "http://plain:3128"), ("https_proxy", "tls:3129"), ("ALL_PROXY", "http://all")];
        assert_eq!(through(&both, "http://models.test/v1").as_deref(), Some("http://plain:3128/"));
        assert_eq!(through(&both, "https://models.test/v1").as_deref(), Some("http://tls:3129/"));
        assert_eq!(through(&both[2..], "https://models.test/v1").as_deref(), Some("http://all/"));
        assert_eq!(through(&[], "https://models.test/v1"), None);
        let cases = [("http_proxy", "http://lower"), ("HTTP_PROXY", "http://upper")];
        assert_eq!(through(&cases, "http://models.test").as_deref(), Some("http://lower/"));
        assert_eq!(through(&[("http_proxy", " ")], "http://models.test"), None);
        let cgi = [("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "http://attacker")];
        assert_eq!(through(&cgi, "http://models.test"), None);
    }

    #[test]
    fn this_machine_and_what_no_proxy_names_are_reached_without() {
        let all = ("ALL_PROXY", "http://all");
        for url in [
            "http://localhost:8000/v1",
            "http://a.localhost/",
            "http://127.0.0.1/",
            "http://127.8.9.1:1/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert_eq!(through(&[all], url), None, "{url}");
        }
        let bypass = [all, ("NO_PROXY", "models.test, 10.0.0.0/8,.inner.test")];
        for url in
            ["http://models.test/", "https://a.models.test/", "http://10.1.2.3/", "http://x.inner.test/"]
        {
            assert_eq!(through(&bypass, url), None, "{url}");
        }
        for url in ["http://notmodels.test/", "http://11.1.2.3/", "http://127.0.0.1.models.example/"] {
            assert!(through(&bypass, url).is_some(), "{url}");
        }
        assert_eq!(through(&[all, ("no_proxy", "*")], "http://models.test/"), None);
    }

    #[test]
    fn what_is_no_proxy_is_refused_only_where_it_would_be_used() {
        for (proxy, words) in [
            ("socks5://127.0.0.1:1080", "a proxy of the kind `socks5` is not supported"),
            ("socks5h://user:hush-hush@127.0.0.1:1080", "`socks5h` is not supported"),
            ("http://", "is no URL"),
            ("http://[::1", "is no URL"),
        ] {
            let proxies = proxies(&[("ALL_PROXY", proxy), ("NO_PROXY", "inner.test")]);
            let error = proxies.through(&Url::parse("https://models.test").expect("a URL")).expect_err(words);
            assert_eq!((error.kind(), error.fault()), (ErrorKind::ConfigInvalid, Fault::Operator));
            let text = format!("{error} {error:?} {proxies:?}");
            assert!(text.contains(words) && text.contains("ALL_PROXY") && !text.contains("hush"), "{text}");
            let inner = Url::parse("https://inner.test").expect("a URL");
            assert_eq!(proxies.through(&inner).expect("not used"), None);
        }
    }
}
