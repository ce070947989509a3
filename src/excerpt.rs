//! The beginning of a text from outside, as errors and log lines quote it.

/// At most the first `max_chars` characters. Errors travel in headers of dead letters, so none of them quotes a whole
/// body.
pub fn excerpt(text: &str, max_chars: usize) -> String {
    text.chars().take(max_chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_between_characters() {
        assert_eq!(excerpt("größer", 3), "grö");
        assert_eq!(excerpt("größer", 6), "größer");
        assert_eq!(excerpt("", 3), "");
    }
}
