//! The order of a merged list: what the patch orders keeps its order, what only the server has keeps its place.

use serde_json::Value;

/// How items of a list are told apart.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ordering {
    /// By their whole value.
    Scalars,
    /// By this field.
    By(&'static str),
}

impl Ordering {
    pub(super) fn is_same(self, a: &Value, b: &Value) -> bool {
        match self {
            Self::Scalars => a == b,
            Self::By(key) => a.get(key).is_some_and(|value| Some(value) == b.get(key)),
        }
    }

    fn index(self, items: &[Value], item: &Value) -> Option<usize> {
        items.iter().position(|other| self.is_same(other, item))
    }
}

/// Both lists without duplicates, in the order of first appearance.
pub(super) fn union(old: &[Value], change: &[Value]) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::with_capacity(old.len() + change.len());
    for item in old.iter().chain(change) {
        if !all.contains(item) {
            all.push(item.clone());
        }
    }
    all
}

/// Orders a merged list: items named in `order` follow it; the others follow `server_order`; an item of the server comes
/// before an item of the patch where the server had it so.
pub(super) fn ordered(merged: Vec<Value>, order: &[Value], server_order: &[Value], by: Ordering) -> Vec<Value> {
    let (mut patched, mut server_only): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| by.index(order, item).is_some());
    patched.sort_by_key(|item| by.index(order, item));
    server_only.sort_by_key(|item| by.index(server_order, item));
    let mut all = Vec::with_capacity(patched.len() + server_only.len());
    let mut server_only = server_only.into_iter().peekable();
    for item in patched {
        let place = by.index(server_order, &item);
        while let (Some(place), Some(next)) = (place, server_only.peek()) {
            if by.index(server_order, next).is_none_or(|at| at >= place) {
                break;
            }
            all.extend(server_only.next());
        }
        all.push(item);
    }
    all.extend(server_only);
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ordered_names(merged: &[&str], order: &[&str], server_order: &[&str]) -> Vec<String> {
        let values = |names: &[&str]| names.iter().map(|name| json!(name)).collect::<Vec<_>>();
        ordered(values(merged), &values(order), &values(server_order), Ordering::Scalars)
            .iter()
            .map(|v| v.as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn the_order_of_the_patch_wins_and_the_server_keeps_its_places() {
        assert_eq!(ordered_names(&["a", "b"], &["b", "a"], &["a", "b"]), ["b", "a"]);
        assert_eq!(ordered_names(&["a", "s", "b"], &["a", "b"], &["a", "s", "b"]), ["a", "s", "b"]);
        assert_eq!(ordered_names(&["s", "a", "new"], &["a", "new"], &["s", "a"]), ["s", "a", "new"]);
        assert_eq!(ordered_names(&["s", "new"], &["new"], &["s"]), ["new", "s"]);
    }
}
