//! How long a server asks to be left alone.

use std::time::{Duration, SystemTime};

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// The longest pause that a header is believed. Source: albedo; a server that asks for
/// more is as good as gone.
const MAX_PAUSE: Duration = Duration::from_hours(24);

/// The pause that `Retry-After` (RFC 9110 §10.2.3: seconds or a date) or
/// `retry-after-ms` asks for, at most a day. A date counts from the answer's own
/// `Date`, so that clocks need not agree, else from `now`.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    if let Some(ms) = number(headers, "retry-after-ms") {
        return seconds(ms / 1000.0);
    }
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(number) = value.parse() {
        return seconds(number);
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let date = headers.get(DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    let pause = until.duration_since(date.unwrap_or(now)).unwrap_or_default();
    Some(pause.min(MAX_PAUSE))
}

/// The header `name`, a number.
pub(crate) fn number(headers: &HeaderMap, name: &str) -> Option<f64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// `number` seconds, at most a day; `None` for what is no time to wait.
pub(crate) fn seconds(number: f64) -> Option<Duration> {
    (number >= 0.0).then(|| Duration::from_secs_f64(number.min(MAX_PAUSE.as_secs_f64())))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderName;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Wed, 25 Nov 2026 12:00:00 GMT").expect("a date");
        let read = |pairs: &[(&str, &str)]| retry_after(&headers(pairs), now);
        let secs = |secs| Some(Duration::from_secs(secs));
        assert_eq!(read(&[("retry-after", "7")]), secs(7));
        assert_eq!(read(&[("retry-after", " 1.5 ")]), Some(Duration::from_millis(1500)));
        assert_eq!(
            read(&[("retry-after-ms", "250"), ("retry-after", "9")]),
            Some(Duration::from_millis(250))
        );
        assert_eq!(read(&[("retry-after", "Wed, 25 Nov 2026 12:01:00 GMT")]), secs(60));
        assert_eq!(read(&[("retry-after", "Wed, 25 Nov 2026 11:01:00 GMT")]), secs(0));
        // A server whose clock is an hour ahead still means half a minute.
        assert_eq!(
            read(&[
                ("date", "Wed, 25 Nov 2026 13:00:00 GMT"),
                ("retry-after", "Wed, 25 Nov 2026 13:00:30 GMT")
            ]),
            secs(30)
        );
        assert_eq!(read(&[("retry-after", "1e300")]), Some(MAX_PAUSE));
        for nonsense in ["", "soon", "-1", "NaN", "Wed, 99 Nov 2026 12:01:00 GMT"] {
            assert_eq!(read(&[("retry-after", nonsense)]), None, "{nonsense}");
        }
        assert_eq!(read(&[]), None);
    }
}
