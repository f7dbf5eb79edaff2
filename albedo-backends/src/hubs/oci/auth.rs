//! What a registry asks for when it answers 401.

use std::collections::BTreeMap;

/// A challenge of the header `www-authenticate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token of the service at `realm`.
    Bearer { realm: String, service: Option<String> },
    /// A user and a password.
    Basic,
}

/// The first challenge in `header` that is understood.
// Source: RFC 9110 §11.6.1; the distribution project's token specification.
pub(super) fn challenge(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let mut parameters = parameters(rest);
    let realm = parameters.remove("realm")?;
    Some(Challenge::Bearer { realm, service: parameters.remove("service") })
}

/// `name="value"` or `name=value`, with commas between them.
fn parameters(mut text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    while let Some((name, rest)) = text.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, rest) = if let Some(quoted) = rest.strip_prefix('"') {
            let (mut value, mut escaped, mut end) = (String::new(), false, quoted.len());
            for (at, c) in quoted.char_indices() {
                match c {
                    _ if escaped => {
                        value.push(c);
                        escaped = false;
                    }
                    '\\' => escaped = true,
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    c => value.push(c),
                }
            }
            (value, &quoted[end..])
        } else {
            let (value, rest) = rest.split_once(',').unwrap_or((rest, ""));
            (value.trim().to_owned(), rest)
        };
        found.entry(name).or_insert(value);
        text = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_as_registries_send_them() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into) })
        };
        // Harbor; Docker Hub; a registry with an escaped quotation mark; one without a service.
        for (header, expected) in [
            (
                r#"Bearer realm="https://r.example/service/token",service="harbor-registry",scope="repository:a/b:pull""#,
                bearer("https://r.example/service/token", Some("harbor-registry")),
            ),
            (
                r#"bearer realm="https://auth.example/token", service="registry.example""#,
                bearer("https://auth.example/token", Some("registry.example")),
            ),
            (r#"Bearer realm="https://a/\"b\"",service=x"#, bearer("https://a/\"b\"", Some("x"))),
            ("Bearer realm=https://a/t", bearer("https://a/t", None)),
            (r#"Basic realm="Registry Realm""#, Some(Challenge::Basic)),
            ("Basic", Some(Challenge::Basic)),
            ("Negotiate", None),
            ("Bearer", None),
            (r#"Bearer service="x""#, None),
            (r#"Bearer realm=""#, bearer("", None)),
        ] {
            assert_eq!(challenge(header), expected, "{header}");
        }
    }
}
