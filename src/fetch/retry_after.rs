//! The `Retry-After` header (RFC 9110, 10.2.3): seconds, or an HTTP date.

use std::time::{Duration, SystemTime};

/// The longest delay that is granted. A host may ask for more than the retry queues' longest delay, but not for days.
const MAX_DELAY: Duration = Duration::from_mins(10);

/// How long the host asks to wait, capped; `None` when the value is neither form. A date in the past means now.
pub(super) fn parse(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let delay = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Digits that overflow are a very long time.
        value.parse().map_or(MAX_DELAY, Duration::from_secs)
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(delay.min(MAX_DELAY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_capped() {
        // Sun, 06 Nov 1994 08:49:37 GMT, the date of RFC 9110's examples.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let seconds = |n| Some(Duration::from_secs(n));
        for (value, expected) in [
            ("0", seconds(0)),
            (" 120 ", Some(Duration::from_mins(2))),
            ("86400", Some(MAX_DELAY)),
            ("99999999999999999999999", Some(MAX_DELAY)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", seconds(10)),
            ("Sunday, 06-Nov-94 08:49:47 GMT", seconds(10)),
            ("Sun Nov  6 08:49:47 1994", seconds(10)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", seconds(0)),
            ("Fri, 31 Dec 1999 23:59:59 GMT", Some(MAX_DELAY)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(parse(value, now), expected, "{value:?}");
        }
    }
}
