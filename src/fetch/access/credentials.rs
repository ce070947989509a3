//! Credentials of image hosts: from a file, never from a message.
//!
//! The file is TOML, one line per origin: `"https://images.example.com" = "Bearer ..."`. The value is sent as the
//! `Authorization` header. A bare host means https on port 443; plain http has to be written out, because then
//! the credential can be read on the network.

use std::collections::HashMap;

use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::fetch::error::Error;

/// Reads a credentials file.
///
/// # Errors
/// What is wrong with it, without any of its values.
pub fn parse(text: &str) -> Result<HashMap<String, SecretString>, Error> {
    let table: HashMap<String, String> = toml::from_str(text).map_err(|error| {
        // The parser's message quotes the line, and with it the secret.
        let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
        setup(format!("the credentials of image hosts are not TOML of the form \"HOST\" = \"VALUE\" (line {line})"))
    })?;
    Ok(table.into_iter().map(|(host, value)| (host, SecretString::from(value))).collect())
}

/// Header values by origin, ready to be sent.
pub(in crate::fetch) struct Credentials(HashMap<String, HeaderValue>);

impl Credentials {
    pub(in crate::fetch) fn new(by_host: &HashMap<String, SecretString>) -> Result<Self, Error> {
        let entries = by_host.iter().map(|(host, value)| Ok((origin(host)?, header(host, value)?)));
        Ok(Self(entries.collect::<Result<_, Error>>()?))
    }

    /// The value for this URL's origin.
    pub(in crate::fetch) fn for_url(&self, url: &Url) -> Option<&HeaderValue> {
        self.0.get(&url.origin().ascii_serialization())
    }
}

fn origin(host: &str) -> Result<String, Error> {
    let text = if host.contains("://") { host.to_owned() } else { format!("https://{host}") };
    let url = Url::parse(&text).ok().filter(|url| {
        let bare = url.username().is_empty() && url.password().is_none() && url.path() == "/" && url.query().is_none();
        matches!(url.scheme(), "http" | "https") && bare
    });
    match url {
        Some(url) => Ok(url.origin().ascii_serialization()),
        None => Err(setup(format!("{host:?} among the credentials is neither a host nor scheme://host[:port]"))),
    }
}

fn header(host: &str, value: &SecretString) -> Result<HeaderValue, Error> {
    let mut header = HeaderValue::from_str(value.expose_secret())
        .map_err(|_| setup(format!("the credential of {host:?} has characters that a header cannot hold")))?;
    header.set_sensitive(true);
    Ok(header)
}

fn setup(reason: String) -> Error {
    Error::Setup { reason }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn credentials(text: &str) -> Credentials {
        Credentials::new(&parse(text).unwrap()).unwrap()
    }

    fn value(credentials: &Credentials, url: &str) -> Option<String> {
        credentials.for_url(&Url::parse(url).unwrap()).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_credential_belongs_to_one_origin() {
        let credentials =
            credentials("\"Images.example.com\" = \"Bearer one\"\n\"http://minio:9000\" = \"Bearer two\"");
        assert_eq!(value(&credentials, "https://images.example.com/a").as_deref(), Some("Bearer one"));
        assert_eq!(value(&credentials, "http://minio:9000/b/c?d").as_deref(), Some("Bearer two"));
        for url in [
            "http://images.example.com/",
            "https://images.example.com:8443/",
            "https://x.images.example.com/",
            "https://example.com/",
            "https://minio:9000/",
            "http://minio/",
        ] {
            assert_eq!(value(&credentials, url), None, "{url}");
        }
    }

    #[test]
    fn secrets_are_in_no_message() {
        let settings = parse("host = \"hunter2\"").unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"));
        let header = format!("{:?}", Credentials::new(&settings).unwrap().0);
        assert!(!header.contains("hunter2"), "{header}");
        for text in ["a = \"hunter2", "a = [\"hunter2\"]", "hunter2"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("line 1") && !error.contains("hunter2"), "{error}");
        }
        let error = Credentials::new(&parse("a = \"hunter2\\n\"").unwrap()).err().unwrap().to_string();
        assert!(error.contains("\"a\"") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn what_is_no_origin_is_refused() {
        for host in ["ftp://a", "https://a/path", "https://user@a", "", "a b", "https://a?q"] {
            let by_host = HashMap::from([(host.to_owned(), SecretString::from("x"))]);
            assert!(matches!(Credentials::new(&by_host), Err(Error::Setup { .. })), "{host:?}");
        }
    }
}
