//! Where a redirect may lead. Pure; the next request checks the target as it would any URL.

use url::Url;

use super::error::Error;

/// The Fetch standard allows 20; image hosts need two or three.
const MAX_REDIRECTS: usize = 5;
const MAX_LOCATION_BYTES: usize = 8192;

/// The URLs of one fetch, from the first to the current one.
pub(super) struct Redirects {
    previous: Vec<Url>,
    current: Url,
    at_origin: bool,
}

impl Redirects {
    pub(super) fn start(url: &Url) -> Self {
        let mut current = url.clone();
        current.set_fragment(None);
        Self { previous: Vec::new(), current, at_origin: true }
    }

    /// The URL to request now.
    pub(super) fn current(&self) -> &Url {
        &self.current
    }

    /// Whether no URL so far had another scheme, host or port than the first. Credentials are sent nowhere else.
    pub(super) fn at_origin(&self) -> bool {
        self.at_origin
    }

    /// Takes the target of a `Location` header as the current URL.
    ///
    /// # Errors
    /// [`Error::Redirect`].
    pub(super) fn follow(&mut self, location: &[u8]) -> Result<(), Error> {
        let refuse = |reason: &str| Err(Error::Redirect { reason: reason.to_owned() });
        if self.previous.len() == MAX_REDIRECTS {
            return refuse(&format!("more than {MAX_REDIRECTS} in a row"));
        }
        if location.len() > MAX_LOCATION_BYTES {
            return refuse("its target is too long");
        }
        let Some(mut next) = std::str::from_utf8(location).ok().and_then(|target| self.current.join(target).ok())
        else {
            return refuse("its target is not a URL");
        };
        next.set_fragment(None);
        if self.current.scheme() == "https" && next.scheme() == "http" {
            return refuse("it leads from https to http");
        }
        // Requests carry no state, so the same URL would give the same answer again.
        if next == self.current || self.previous.contains(&next) {
            return refuse("it leads in a circle");
        }
        self.at_origin &= next.origin() == self.current.origin();
        self.previous.push(std::mem::replace(&mut self.current, next));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn redirects(start: &str) -> Redirects {
        Redirects::start(&Url::parse(start).unwrap())
    }

    fn reason(redirects: &mut Redirects, location: &str) -> String {
        match redirects.follow(location.as_bytes()) {
            Err(Error::Redirect { reason }) => reason,
            other => panic!("{location}: {other:?}"),
        }
    }

    #[test]
    fn targets_are_relative_to_the_current_url() {
        let mut redirects = redirects("https://a.example/dir/image?key=1#top");
        assert_eq!(redirects.current().as_str(), "https://a.example/dir/image?key=1");
        for (location, expected) in [
            ("other.png", "https://a.example/dir/other.png"),
            ("/root.png?size=2", "https://a.example/root.png?size=2"),
            ("//b.example/c.png", "https://b.example/c.png"),
            ("https://c.example/#f", "https://c.example/"),
        ] {
            redirects.follow(location.as_bytes()).unwrap();
            assert_eq!(redirects.current().as_str(), expected);
        }
    }

    #[test]
    fn five_redirects_and_no_more() {
        let mut redirects = redirects("http://a.example/0");
        for n in 1..=5 {
            redirects.follow(format!("/{n}").as_bytes()).unwrap();
        }
        assert!(reason(&mut redirects, "/6").contains("more than 5"));
    }

    #[test]
    fn never_back_to_plain_http_and_never_in_a_circle() {
        let mut redirects = redirects("http://a.example/");
        redirects.follow(b"https://a.example/").unwrap();
        assert!(reason(&mut redirects, "http://a.example/x").contains("from https to http"));
        assert!(reason(&mut redirects, "#again").contains("circle"));
        redirects.follow(b"/two").unwrap();
        assert!(reason(&mut redirects, "/").contains("circle"));
    }

    #[test]
    fn targets_that_are_no_urls_are_refused_without_quoting_them() {
        let mut redirects = redirects("http://a.example/");
        assert!(reason(&mut redirects, "http://[secret").contains("not a URL"));
        assert!(matches!(redirects.follow(b"/\xff"), Err(Error::Redirect { .. })));
        assert!(reason(&mut redirects, &"x".repeat(8193)).contains("too long"));
    }

    #[test]
    fn the_origin_once_left_is_lost_for_good() {
        let mut redirects = redirects("https://a.example/1");
        redirects.follow(b"/2").unwrap();
        assert!(redirects.at_origin());
        redirects.follow(b"https://b.example/").unwrap();
        assert!(!redirects.at_origin());
        redirects.follow(b"https://a.example/3").unwrap();
        assert!(!redirects.at_origin());
    }

    #[test]
    fn another_port_or_scheme_is_another_origin() {
        for target in ["https://a.example:8443/", "https://a.example/"] {
            let mut redirects = redirects("http://a.example/");
            redirects.follow(target.as_bytes()).unwrap();
            assert!(!redirects.at_origin(), "{target}");
        }
    }
}
