//! Which ranges contain a key: an interval tree, so that an event costs what matches it and not what watches elsewhere.
//!
//! A treap ordered by start, each node knowing the greatest end below it. Priorities come from a hash of the range, so the
//! shape depends on the contents alone.

use std::cmp::Ordering;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::ops::Bound;

use bytes::Bytes;

use crate::mvcc::interval::Interval;

/// A set of non-empty ranges, each with a value.
#[derive(Debug)]
pub struct Intervals<T> {
    root: Link<T>,
}

type Link<T> = Option<Box<Node<T>>>;

#[derive(Debug)]
struct Node<T> {
    interval: Interval,
    value: T,
    priority: u64,
    /// Above every key of every range in this subtree.
    end_max: End,
    left: Link<T>,
    right: Link<T>,
}

/// An exclusive end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Before(Bytes),
    Unbounded,
}

impl<T> Default for Intervals<T> {
    fn default() -> Self {
        Self { root: None }
    }
}

impl<T> Intervals<T> {
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Adds a range that is not in the set yet.
    pub fn insert(&mut self, interval: Interval, value: T) {
        let mut hasher = DefaultHasher::new();
        interval.hash(&mut hasher);
        let end_max = end_of(&interval);
        let node = Node { interval, value, priority: hasher.finish(), end_max, left: None, right: None };
        let root = self.root.take();
        self.root = Some(inserted(root, Box::new(node)));
    }

    /// Removes a range.
    pub fn remove(&mut self, interval: &Interval) {
        let root = self.root.take();
        self.root = removed(root, interval);
    }

    /// Visits the value of every range that contains `key`.
    pub fn containing(&self, key: &[u8], visit: &mut dyn FnMut(&T)) {
        visit_containing(&self.root, key, visit);
    }
}

fn end_of(interval: &Interval) -> End {
    match interval.bounds().map(|(_, end)| end) {
        Some(Bound::Unbounded) => End::Unbounded,
        Some(Bound::Excluded(end)) => End::Before(Bytes::copy_from_slice(end)),
        Some(Bound::Included(_)) | None => unreachable!("single keys and empty ranges are kept elsewhere"),
    }
}

impl<T> Node<T> {
    fn update(&mut self) {
        let children = [&self.left, &self.right].into_iter().flatten().map(|child| &child.end_max);
        let own = end_of(&self.interval);
        self.end_max = children.fold(own, |max, end| if *end > max { end.clone() } else { max });
    }
}

fn inserted<T>(link: Link<T>, node: Box<Node<T>>) -> Box<Node<T>> {
    let Some(mut root) = link else { return node };
    match node.interval.cmp(&root.interval) {
        Ordering::Less => {
            let left = inserted(root.left.take(), node);
            root.left = Some(left);
            if root.left.as_ref().is_some_and(|left| left.priority > root.priority) {
                return rotated_right(root);
            }
        }
        Ordering::Greater => {
            let right = inserted(root.right.take(), node);
            root.right = Some(right);
            if root.right.as_ref().is_some_and(|right| right.priority > root.priority) {
                return rotated_left(root);
            }
        }
        Ordering::Equal => unreachable!("a range is inserted once"),
    }
    root.update();
    root
}

fn rotated_right<T>(mut root: Box<Node<T>>) -> Box<Node<T>> {
    let mut left = root.left.take().expect("the left child rises");
    root.left = left.right.take();
    root.update();
    left.right = Some(root);
    left.update();
    left
}

fn rotated_left<T>(mut root: Box<Node<T>>) -> Box<Node<T>> {
    let mut right = root.right.take().expect("the right child rises");
    root.right = right.left.take();
    root.update();
    right.left = Some(root);
    right.update();
    right
}

fn removed<T>(link: Link<T>, interval: &Interval) -> Link<T> {
    let mut root = link?;
    match interval.cmp(&root.interval) {
        Ordering::Less => root.left = removed(root.left.take(), interval),
        Ordering::Greater => root.right = removed(root.right.take(), interval),
        Ordering::Equal => return joined(root.left, root.right),
    }
    root.update();
    Some(root)
}

/// Two treaps, everything in the left one below everything in the right one.
fn joined<T>(left: Link<T>, right: Link<T>) -> Link<T> {
    let (mut left, mut right) = match (left, right) {
        (Some(left), Some(right)) => (left, right),
        (one, other) => return one.or(other),
    };
    if left.priority > right.priority {
        left.right = joined(left.right.take(), Some(right));
        left.update();
        Some(left)
    } else {
        right.left = joined(Some(left), right.left.take());
        right.update();
        Some(right)
    }
}

fn visit_containing<T>(link: &Link<T>, key: &[u8], visit: &mut dyn FnMut(&T)) {
    let Some(node) = link else { return };
    if matches!(&node.end_max, End::Before(end) if end.as_ref() <= key) {
        return;
    }
    visit_containing(&node.left, key, visit);
    if node.interval.start().as_ref() <= key {
        if node.interval.contains(key) {
            visit(&node.value);
        }
        visit_containing(&node.right, key, visit);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn interval(start: u8, end: Option<u8>) -> Interval {
        let end = end.map_or(vec![0], |end| vec![end, 1]);
        Interval::of(&Bytes::from(vec![start]), &Bytes::from(end))
    }

    proptest! {
        #[test]
        fn exactly_the_ranges_that_contain_the_key_are_found(
            changes in prop::collection::vec((1_u8..40, prop::option::weighted(0.9, 1_u8..40)), 1..200),
        ) {
            let mut tree = Intervals::default();
            let mut model: Vec<Interval> = Vec::new();
            for (start, end) in changes {
                let interval = interval(start, end);
                if interval.is_empty() {
                    continue;
                }
                if let Some(index) = model.iter().position(|known| *known == interval) {
                    model.remove(index);
                    tree.remove(&interval);
                } else {
                    model.push(interval.clone());
                    tree.insert(interval.clone(), interval);
                }
            }
            for key in 0..45_u8 {
                let mut found = Vec::new();
                tree.containing(&[key], &mut |interval| found.push(interval.clone()));
                found.sort();
                let mut expected: Vec<_> = model.iter().filter(|known| known.contains(&[key])).cloned().collect();
                expected.sort();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
