//! Which of two writes of one id stands: the one rule, for every store.

/// The largest version of a write: a deletion needs the next one in Elasticsearch, whose versions have 63 bits. Nothing replaces
/// a deletion at this version.
pub(super) const LARGEST_VERSION: u64 = i64::MAX as u64 - 1;

/// What a write makes of its id, and at which version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revision {
    Upsert(u64),
    Deletion(u64),
}

impl Revision {
    pub fn version(self) -> u64 {
        match self {
            Self::Upsert(version) | Self::Deletion(version) => version,
        }
    }

    /// Whether a write of this revision takes the place of what is stored. The higher version does, and of equal versions the
    /// deletion. An upsert replaces an equal upsert, so that sending it again repairs what a fault may have left of it.
    ///
    /// | this / stored | upsert of v | deletion at v |
    /// |---|---|---|
    /// | upsert of w | w >= v | w > v |
    /// | deletion at w | w >= v | w > v |
    pub fn replaces(self, stored: Self) -> bool {
        match stored {
            Self::Upsert(version) => self.version() >= version,
            Self::Deletion(version) => self.version() > version,
        }
    }

    /// The same rule as Elasticsearch keeps it: the `_version` and `version_type` of the write. A deletion takes the place
    /// between the upserts of its own version and of the next one.
    pub(super) fn external(self) -> (u64, &'static str) {
        match self {
            Self::Upsert(version) => (version, "external_gte"),
            Self::Deletion(version) => (version.saturating_add(1), "external"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LARGEST_VERSION;
    use super::Revision::{Deletion, Upsert};
    use crate::message::MAX_VERSION;

    #[test]
    fn messages_have_the_same_limit() {
        assert_eq!(LARGEST_VERSION, MAX_VERSION);
    }

    #[test]
    fn table() {
        for (new, stored, expected) in [
            (Upsert(2), Upsert(1), true),
            (Upsert(1), Upsert(1), true),
            (Upsert(1), Upsert(2), false),
            (Upsert(2), Deletion(1), true),
            (Upsert(1), Deletion(1), false),
            (Upsert(1), Deletion(2), false),
            (Deletion(2), Upsert(1), true),
            (Deletion(1), Upsert(1), true),
            (Deletion(1), Upsert(2), false),
            (Deletion(2), Deletion(1), true),
            (Deletion(1), Deletion(1), false),
            (Deletion(1), Deletion(2), false),
        ] {
            assert_eq!(new.replaces(stored), expected, "{new:?} over {stored:?}");
        }
    }

    /// The documented meaning of Elasticsearch's version types.
    #[test]
    fn elasticsearch_s_version_types_say_the_same() {
        let versions = [0, 1, 2, 3, MAX_VERSION - 1, MAX_VERSION];
        let all: Vec<_> = versions.iter().flat_map(|&version| [Upsert(version), Deletion(version)]).collect();
        for &stored in &all {
            for &new in &all {
                let (version, version_type) = new.external();
                let taken = match version_type {
                    "external_gte" => version >= stored.external().0,
                    _ => version > stored.external().0,
                };
                assert_eq!(taken, new.replaces(stored), "{new:?} over {stored:?}");
                assert!(i64::try_from(version).is_ok());
            }
        }
    }

    /// In any order of arrival the same one stands.
    #[test]
    fn the_order_of_arrival_does_not_matter() {
        let all: Vec<_> = (0..4).flat_map(|version| [Upsert(version), Deletion(version)]).collect();
        for &a in &all {
            for &b in &all {
                assert!(a.replaces(b) || b.replaces(a) || a == b, "{a:?} {b:?}");
                assert!(!(a.replaces(b) && b.replaces(a)) || a == b, "{a:?} {b:?}");
            }
        }
    }
}
