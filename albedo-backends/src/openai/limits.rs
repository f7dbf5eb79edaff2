//! What a provider's headers say about its limits.

use std::time::{Duration, SystemTime};

use albedo_core::CallSignal;
use albedo_core::http::HeaderMap;

use crate::http::{number, seconds};

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
    // A number of this size is a moment (the year 2001 or later), not seconds.
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

#[cfg(test)]
mod tests {
    use albedo_core::http::HeaderName;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"))
        };
        pairs.iter().map(pair).collect()
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
