//! What a provider's headers say about waiting.

use std::time::{Duration, SystemTime};

use albedo_core::CallSignal;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// The longest pause that a header is believed, ours: a provider that asks for
/// more is as good as gone.
const MAX_PAUSE: Duration = Duration::from_hours(24);

/// The pause that `Retry-After` (RFC 9110 §10.2.3: seconds or a date) or
/// `retry-after-ms` asks for. A date counts from the answer's own `Date`, so
/// that clocks need not agree.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
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

/// The limit of requests that the headers tell, in the dialects of OpenAI,
/// OpenRouter and the IETF draft.
pub(super) fn limit(headers: &HeaderMap, now: SystemTime) -> Option<CallSignal> {
    const NAMES: [(&str, &str); 3] = [
        ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
        ("x-ratelimit-remaining", "x-ratelimit-reset"),
        ("ratelimit-remaining", "ratelimit-reset"),
    ];
    NAMES.into_iter().find_map(|(remaining, reset)| {
        let remaining = number(headers, remaining)? as u32;
        let resets_in = reset_time(headers.get(reset)?.to_str().ok()?.trim(), now)?;
        Some(CallSignal::Limit { remaining, resets_in })
    })
}

/// Seconds, a moment of the Unix epoch in seconds or milliseconds, or a
/// duration such as `6m0s` or `120ms`.
fn reset_time(value: &str, now: SystemTime) -> Option<Duration> {
    // Nobody means seconds by a number of this size: 2001 as a moment.
    const MOMENT: f64 = 1e9;
    const MOMENT_MS: f64 = 1e12;
    let Ok(number) = value.parse::<f64>() else { return duration(value) };
    let moment = match number {
        number if number >= MOMENT_MS => number / 1000.0,
        number if number >= MOMENT => number,
        number => return seconds(number),
    };
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    seconds((moment - now).max(0.0))
}

fn duration(value: &str) -> Option<Duration> {
    let mut total = 0.0;
    let mut rest = value;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |end| digits + end);
        total += number
            * match &rest[digits..unit] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86_400.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    if value.is_empty() { None } else { seconds(total) }
}

fn number(headers: &HeaderMap, name: &str) -> Option<f64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

fn seconds(number: f64) -> Option<Duration> {
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

    #[test]
    fn limits_are_read_in_every_dialect() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
        let read = |remaining: (&str, &str), reset| limit(&headers(&[remaining, reset]), now);
        let told =
            |remaining, ms| Some(CallSignal::Limit { remaining, resets_in: Duration::from_millis(ms) });
        let openai =
            |reset| read(("x-ratelimit-remaining-requests", "59"), ("x-ratelimit-reset-requests", reset));
        assert_eq!(openai("1s"), told(59, 1000));
        assert_eq!(openai("6m0s"), told(59, 360_000));
        assert_eq!(openai("120ms"), told(59, 120));
        assert_eq!(openai("1h2m3.5s"), told(59, 3_723_500));
        for nonsense in ["", "s", "1x", "one"] {
            assert_eq!(openai(nonsense), None, "{nonsense}");
        }
        let openrouter = |reset| read(("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset));
        assert_eq!(openrouter("1800000005000"), told(0, 5000));
        assert_eq!(openrouter("1800000005"), told(0, 5000));
        assert_eq!(openrouter("1700000005"), told(0, 0));
        assert_eq!(read(("ratelimit-remaining", "3"), ("ratelimit-reset", "12")), told(3, 12_000));
        assert_eq!(read(("ratelimit-remaining", "many"), ("ratelimit-reset", "12")), None);
        assert_eq!(limit(&headers(&[]), now), None);
    }
}
