//! The address of an alias: `http(s)://[user:pass@]host:port[/prefix]/ALIAS`, parsed and checked. Pure.

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use url::{Host, Url};

#[derive(Clone, Debug)]
pub(super) struct Address {
    /// The server, with the path's prefix; without credentials, and ending in `/`.
    pub(super) base: Url,
    /// The alias: the last segment of the path.
    pub(super) alias: String,
    /// User and password, where the address has them.
    pub(super) basic: Option<(String, SecretString)>,
}

impl Address {
    /// Parses an address.
    ///
    /// # Errors
    /// The reason, which never quotes a part of the address that may be secret.
    pub(super) fn parse(address: &str) -> Result<Self, String> {
        let mut base = Url::parse(address).map_err(|error| error.to_string())?;
        let basic = basic(&base)?;
        // Cannot fail for a URL with a host, which http and https always have.
        let (_, _) = (base.set_username(""), base.set_password(None));
        if base.query().is_some() || base.fragment().is_some() {
            return Err("a query or fragment has no meaning here".to_owned());
        }
        let path = base.path().trim_end_matches('/').to_owned();
        let (prefix, alias) = path.rsplit_once('/').unwrap_or(("", ""));
        let alias = decoded(alias)?;
        check_alias(&alias)?;
        base.set_path(&format!("{prefix}/"));
        Ok(Self { base, alias, basic })
    }

    /// Whether a secret sent to this address can be read in transit.
    pub(super) fn exposes_secrets(&self) -> bool {
        let loopback = match self.base.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        self.base.scheme() != "https" && !loopback
    }
}

fn basic(url: &Url) -> Result<Option<(String, SecretString)>, String> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    Ok(Some((decoded(url.username())?, decoded(url.password().unwrap_or_default())?.into())))
}

fn decoded(part: &str) -> Result<String, String> {
    let text = percent_decode_str(part).decode_utf8().map_err(|_| "a percent-encoded part is not UTF-8".to_owned())?;
    Ok(text.into_owned())
}

/// Elasticsearch's rules for names of indices and aliases. A name is part of a path, where a comma or an asterisk would
/// mean several indices.
fn check_alias(alias: &str) -> Result<(), String> {
    /// Leaves space for a suffix within the 255 bytes of an index name.
    const MAX_BYTES: usize = 200;
    if alias.is_empty() {
        return Err("the alias is missing: it is the last part of the path".to_owned());
    }
    if alias.len() > MAX_BYTES {
        return Err(format!("the alias has more than {MAX_BYTES} bytes"));
    }
    if alias.starts_with(['-', '_', '+', '.']) {
        return Err(format!("the alias {alias:?} must not start with '-', '_', '+' or '.'"));
    }
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || c.is_uppercase() || "\\/*?\"<>|,#:%".contains(c);
    match alias.chars().find(|&c| forbidden(c)) {
        Some(c) => {
            Err(format!("the alias {alias:?} must not contain {c:?}: lower-case letters, digits, '-' and '_' are fine"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn an_address_is_parsed() {
        for (text, base, alias) in [
            ("http://localhost:9200/images", "http://localhost:9200/", "images"),
            ("https://es.example/a/b/images/", "https://es.example/a/b/", "images"),
            ("http://[::1]:9200/bilder-ä", "http://[::1]:9200/", "bilder-ä"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.base.as_str(), address.alias.as_str()), (base, alias), "{text}");
            assert!(address.basic.is_none());
        }
    }

    #[test]
    fn credentials_are_removed_from_the_base_and_decoded() {
        let address = Address::parse("https://us%40er:p%3Ass@es.example/images").unwrap();
        let (user, password) = address.basic.clone().unwrap();
        assert_eq!((user.as_str(), password.expose_secret()), ("us@er", "p:ss"));
        assert_eq!(address.base.as_str(), "https://es.example/");
        assert!(!format!("{address:?}").contains("p:ss"));
    }

    #[test]
    fn addresses_without_exactly_one_valid_alias_are_refused() {
        for text in [
            "http://h:9200",
            "http://h:9200/",
            "http://h/a,b",
            "http://h/*",
            "http://h/Images",
            "http://h/_all",
            "http://h/.x",
            "http://h/a%2Fb",
            "http://h/a?x=1",
            "http://h/a#b",
            "http://h/a:b",
            "http://h/%FF",
            "http://",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn errors_show_no_secret() {
        let error = Address::parse("http://user:hunter2@h/Images").unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn only_loopback_and_tls_hide_secrets() {
        for (text, exposed) in [
            ("http://127.0.0.1:9200/a", false),
            ("http://127.9.9.9/a", false),
            ("http://[::1]/a", false),
            ("http://localhost/a", false),
            ("https://es.example/a", false),
            ("http://es.example/a", true),
            ("http://10.0.0.1/a", true),
            ("http://localhost.example/a", true),
            ("http://notlocalhost/a", true),
        ] {
            assert_eq!(Address::parse(text).unwrap().exposes_secrets(), exposed, "{text}");
        }
    }
}
