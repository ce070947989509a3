//! Errors and the errors that caused them.

use std::error::Error;
use std::fmt::Write;

/// The error itself, then its causes, the innermost last.
pub fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// The innermost cause; `None` where the error has no cause. The errors of an HTTP client say it best: the outer ones
/// repeat the URL, and with it its query.
pub fn innermost_cause(error: &(dyn Error + 'static)) -> Option<String> {
    causes(error).skip(1).last().map(ToString::to_string)
}

/// The error with all its causes, joined by colons. A cause that an outer error already quotes is left out.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error).skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            // Writing to a String cannot fail.
            let _ = write!(text, ": {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Nested {
        text: &'static str,
        source: Option<Box<Nested>>,
    }

    fn nested(texts: &[&'static str]) -> Option<Box<Nested>> {
        let (&text, inner) = texts.split_first()?;
        Some(Box::new(Nested { text, source: nested(inner) }))
    }

    #[test]
    fn innermost_and_all() {
        for (texts, innermost, all) in [
            (
                &["sending failed", "connecting", "connection refused"][..],
                Some("connection refused"),
                "sending failed: connecting: connection refused",
            ),
            (&["sending failed: timed out", "timed out"], Some("timed out"), "sending failed: timed out"),
            (&["no more to say"], None, "no more to say"),
        ] {
            let Some(error) = nested(texts) else { continue };
            assert_eq!(innermost_cause(&*error).as_deref(), innermost);
            assert_eq!(with_causes(&*error), all);
        }
    }
}
