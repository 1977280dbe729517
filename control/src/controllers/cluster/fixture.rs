//! Building clusters and objects for table tests.

use serde_json::{Value, json};

use super::*;

/// The moment all table tests happen at.
pub(crate) const NOW: &str = "2026-01-01T12:00:00Z";

pub(crate) fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// Seconds after [`now`].
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(now().as_second() + seconds).unwrap()
}

/// RFC 3339 of [`at`].
pub(crate) fn stamp(seconds: i64) -> String {
    at(seconds).to_string()
}

impl Cluster {
    /// Adds objects by their `kind`, filling uid and resourceVersion (1) where absent.
    pub(crate) fn with(mut self, objects: impl IntoIterator<Item = Value>) -> Self {
        for object in objects {
            self.put(object, now());
        }
        self.listed()
    }

    /// As if all lists had been seen.
    fn listed(mut self) -> Self {
        macro_rules! list {
            ($($variant:ident, $field:ident, $type:ty, $resource:expr;)*) => {
                $(let objects: Vec<_> = self.$field.iter().cloned().collect();
                self.$field.feed(Feed::Init);
                objects.into_iter().for_each(|o| drop(self.$field.feed(Feed::InitApply(o))));
                self.$field.feed(Feed::InitDone);)*
            };
        }
        with_kinds!(list);
        self.root_cas.feed(Feed::Init);
        let root_cas: Vec<_> = self.root_cas.iter().cloned().collect();
        root_cas.into_iter().for_each(|o| drop(self.root_cas.feed(Feed::InitApply(o))));
        self.root_cas.feed(Feed::InitDone);
        self
    }

    pub(crate) fn put(&mut self, mut object: Value, now: Timestamp) {
        let kind = object["kind"].as_str().unwrap().to_owned();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let meta = object["metadata"].as_object_mut().unwrap();
        meta.entry("uid").or_insert_with(|| json!(format!("uid-{name}")));
        meta.entry("resourceVersion").or_insert_with(|| json!("1"));
        macro_rules! dispatch {
            ($($variant:ident, $field:ident, $type:ty, $resource:expr;)*) => {
                match kind.as_str() {
                    $(stringify!($variant) => {
                        Watched::$variant(Feed::Apply(Arc::new(serde_json::from_value(object).unwrap())))
                    })*
                    "ConfigMap" => Watched::RootCa(Feed::Apply(Arc::new(serde_json::from_value(object).unwrap()))),
                    other => panic!("no fixture for {other}"),
                }
            };
        }
        self.feed(with_kinds!(dispatch), now);
    }
}
