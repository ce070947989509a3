//! Where a redirect may lead. Pure; the next request checks the target as it would any URL.

use url::Url;

use super::Error;

/// The most redirects that are followed: the figure of the Fetch standard is 20, image hosts need two or three.
const MAX_REDIRECTS: usize = 5;
/// The longest target.
const MAX_LOCATION_BYTES: usize = 8192;

/// The URLs of one fetch, from the first to the one at hand.
pub(super) struct Trail {
    passed: Vec<Url>,
    here: Url,
    at_origin: bool,
}

impl Trail {
    /// A trail that starts here.
    pub(super) fn new(start: &Url) -> Self {
        let mut here = start.clone();
        here.set_fragment(None);
        Self { passed: Vec::new(), here, at_origin: true }
    }

    /// The URL to request now.
    pub(super) fn here(&self) -> &Url {
        &self.here
    }

    /// Whether the trail has never left the scheme, host and port that it started at. Credentials go no further.
    pub(super) fn at_origin(&self) -> bool {
        self.at_origin
    }

    /// Goes where a `Location` header says.
    ///
    /// # Errors
    /// [`Error::Redirect`].
    pub(super) fn follow(&mut self, location: &[u8]) -> Result<(), Error> {
        let refuse = |reason: &str| Err(Error::Redirect { reason: reason.to_owned() });
        if self.passed.len() == MAX_REDIRECTS {
            return refuse(&format!("more than {MAX_REDIRECTS} in a row"));
        }
        if location.len() > MAX_LOCATION_BYTES {
            return refuse("its target is too long");
        }
        let Some(mut next) = std::str::from_utf8(location).ok().and_then(|target| self.here.join(target).ok()) else {
            return refuse("its target is not a URL");
        };
        next.set_fragment(None);
        if self.here.scheme() == "https" && next.scheme() == "http" {
            return refuse("it leads from https to http");
        }
        // Requests carry no state, so the same URL would give the same answer again.
        if next == self.here || self.passed.contains(&next) {
            return refuse("it leads in a circle");
        }
        self.at_origin &= next.origin() == self.here.origin();
        self.passed.push(std::mem::replace(&mut self.here, next));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn trail(start: &str) -> Trail {
        Trail::new(&Url::parse(start).unwrap())
    }

    fn reason(trail: &mut Trail, location: &str) -> String {
        match trail.follow(location.as_bytes()) {
            Err(Error::Redirect { reason }) => reason,
            other => panic!("{location}: {other:?}"),
        }
    }

    #[test]
    fn targets_are_relative_to_the_url_at_hand() {
        let mut trail = trail("https://a.example/dir/image?key=1#top");
        assert_eq!(trail.here().as_str(), "https://a.example/dir/image?key=1");
        for (location, expected) in [
            ("other.png", "https://a.example/dir/other.png"),
            ("/root.png?size=2", "https://a.example/root.png?size=2"),
            ("//b.example/c.png", "https://b.example/c.png"),
            ("https://c.example/#f", "https://c.example/"),
        ] {
            trail.follow(location.as_bytes()).unwrap();
            assert_eq!(trail.here().as_str(), expected);
        }
    }

    #[test]
    fn five_redirects_and_no_more() {
        let mut trail = trail("http://a.example/0");
        for n in 1..=5 {
            trail.follow(format!("/{n}").as_bytes()).unwrap();
        }
        assert!(reason(&mut trail, "/6").contains("more than 5"));
    }

    #[test]
    fn never_back_to_plain_http_and_never_in_a_circle() {
        let mut trail = trail("http://a.example/");
        trail.follow(b"https://a.example/").unwrap();
        assert!(reason(&mut trail, "http://a.example/x").contains("from https to http"));
        assert!(reason(&mut trail, "#again").contains("circle"));
        trail.follow(b"/two").unwrap();
        assert!(reason(&mut trail, "/").contains("circle"));
    }

    #[test]
    fn targets_that_are_no_urls_are_refused_without_being_repeated() {
        let mut trail = trail("http://a.example/");
        assert!(reason(&mut trail, "http://[secret").contains("not a URL"));
        assert!(matches!(trail.follow(b"/\xff"), Err(Error::Redirect { .. })));
        assert!(reason(&mut trail, &"x".repeat(8193)).contains("too long"));
    }

    #[test]
    fn the_origin_is_lost_for_good_once_left() {
        let mut trail = trail("https://a.example/1");
        trail.follow(b"/2").unwrap();
        assert!(trail.at_origin());
        trail.follow(b"https://b.example/").unwrap();
        assert!(!trail.at_origin());
        trail.follow(b"https://a.example/3").unwrap();
        assert!(!trail.at_origin());
    }

    #[test]
    fn another_port_or_scheme_is_another_origin() {
        for target in ["https://a.example:8443/", "https://a.example/"] {
            let mut trail = trail("http://a.example/");
            trail.follow(target.as_bytes()).unwrap();
            assert!(!trail.at_origin(), "{target}");
        }
    }
}
