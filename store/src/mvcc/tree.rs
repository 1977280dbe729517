//! The ordered map from key to [`Entry`]: a B+ tree that knows how many live keys each subtree holds.
//!
//! Counting a range is O(log n) because of those counts, where etcd walks it. One writer changes it in place; leaves are
//! visited one at a time by the slow work (pruning, eviction), so that nobody holds its lock for long. Nodes are merged
//! only by pruning: between compactions a key never leaves the tree.

use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use super::entry::{Entry, Version};
use super::heads::Heads;

const LEAF_ENTRIES_MAX: usize = 48;
const INNER_CHILDREN_MAX: usize = 48;
/// Entries that a leaf grows by: doubling would leave half of the index's memory unused.
const LEAF_GROWTH: usize = 6;

#[derive(Debug)]
enum Node {
    Leaf(Leaf),
    Inner(Inner),
}

/// `heads` are those of the entries' keys.
#[derive(Debug, Default)]
struct Leaf {
    heads: Heads,
    entries: Vec<Entry>,
}

/// `separators[i]` is above every key of `children[i]` and not above any key of `children[i + 1]`; `heads` are theirs.
#[derive(Debug, Default)]
struct Inner {
    heads: Heads,
    separators: Vec<Box<[u8]>>,
    children: Vec<Child>,
}

#[derive(Debug)]
struct Child {
    live: usize,
    node: Box<Node>,
}

/// The order-statistic tree.
#[derive(Debug)]
pub struct Tree {
    root: Node,
    live: usize,
}

/// What was there before a change.
#[derive(Debug, Default)]
pub struct Previous {
    pub version: Option<Version>,
    pub cached: Option<Bytes>,
}

struct Recorded {
    previous: Previous,
    /// A right sibling that the node had to be split into, with its separator.
    split: Option<(Box<[u8]>, Node)>,
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: Node::empty(), live: 0 }
    }
}

impl Tree {
    /// Keys whose newest version is not a deletion.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live
    }

    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf.search(key).ok().map(|index| &leaf.entries[index]),
                Node::Inner(inner) => node = &inner.children[inner.child_of(key)].node,
            }
        }
    }

    /// Records a newer version of `key`.
    pub fn record(&mut self, key: &[u8], version: Version, cached: Option<Bytes>) -> Previous {
        let Recorded { previous, split } = self.root.record(key, version, cached);
        self.live = adjusted(self.live, &previous, &version);
        if let Some((separator, right)) = split {
            let left = std::mem::replace(&mut self.root, Node::empty());
            let children = [left, right].map(|node| Child { live: node.live(), node: Box::new(node) });
            self.root = Node::Inner(Inner::new(vec![separator], children.into()));
        }
        previous
    }

    /// Live keys from `start` up to the bound `end`.
    #[must_use]
    pub fn count(&self, start: &[u8], end: Bound<&[u8]>) -> usize {
        let below_end = match end {
            Bound::Unbounded => self.live,
            Bound::Excluded(end) => self.root.live_below(end, false),
            Bound::Included(end) => self.root.live_below(end, true),
        };
        below_end.saturating_sub(self.root.live_below(start, false))
    }

    /// Visits entries from `start` up to `end` in key order, deleted ones too, until told to stop.
    pub fn scan<'a>(
        &'a self,
        start: &[u8],
        end: Bound<&[u8]>,
        visit: &mut dyn FnMut(&'a Entry) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        self.root.scan(Some(start), end, visit)
    }

    /// Visits the entries of one leaf from `from` on and drops those for which `keep` is false; they must not be live.
    /// Returns where the next leaf begins.
    pub fn retain_leaf(&mut self, from: &[u8], keep: &mut dyn FnMut(&mut Entry) -> bool) -> Option<Box<[u8]>> {
        let next = self.root.retain_leaf(from, keep);
        while let Node::Inner(inner) = &mut self.root {
            match inner.children.len() {
                0 => self.root = Node::empty(),
                1 => self.root = *inner.children.remove(0).node,
                _ => break,
            }
        }
        next
    }
}

/// A live count after one of its keys went from `previous` to `version`.
fn adjusted(live: usize, previous: &Previous, version: &Version) -> usize {
    let was = usize::from(previous.version.is_some_and(|previous| previous.live));
    live + usize::from(version.live) - was
}

impl Leaf {
    fn new(entries: Vec<Entry>) -> Self {
        let heads = Heads::of(entries.len(), |index| &entries[index].key);
        Self { heads, entries }
    }

    fn search(&self, key: &[u8]) -> Result<usize, usize> {
        self.heads.search(key, |index| &self.entries[index].key)
    }

    /// The first entry whose key is not less than `key`.
    fn lower_bound(&self, key: &[u8]) -> usize {
        self.search(key).unwrap_or_else(|index| index)
    }

    fn record(&mut self, key: &[u8], version: Version, cached: Option<Bytes>) -> Recorded {
        match self.search(key) {
            Ok(index) => {
                let entry = &mut self.entries[index];
                let previous = Previous { version: Some(entry.newest()), cached: entry.push(version, cached) };
                Recorded { previous, split: None }
            }
            Err(index) => {
                let entries = &mut self.entries;
                if entries.len() == entries.capacity() {
                    entries.reserve_exact(LEAF_GROWTH);
                }
                entries.insert(index, Entry::new(key, version, cached));
                self.heads.insert(index, entries.len(), LEAF_GROWTH, |index| &entries[index].key);
                Recorded { previous: Previous::default(), split: self.split_if_full(index) }
            }
        }
    }

    /// Where keys arrive in order, or nearly so because several clients write them, the left part stays nearly full.
    fn split_if_full(&mut self, inserted: usize) -> Option<(Box<[u8]>, Node)> {
        let len = self.entries.len();
        if len <= LEAF_ENTRIES_MAX {
            return None;
        }
        let at = match inserted {
            last if last + 1 == len => last,
            late if late > len * 3 / 4 => len * 7 / 8,
            _ => len / 2,
        };
        let mut left = std::mem::take(&mut self.entries);
        let right = Leaf::new(left.split_off(at));
        left.shrink_to_fit();
        *self = Leaf::new(left);
        Some((right.entries[0].key.clone(), Node::Leaf(right)))
    }
}

impl Inner {
    fn new(separators: Vec<Box<[u8]>>, children: Vec<Child>) -> Self {
        let heads = Heads::of(separators.len(), |index| &separators[index]);
        Self { heads, separators, children }
    }

    fn child_of(&self, key: &[u8]) -> usize {
        // A key that is a separator itself is in the child on its right.
        self.heads.search(key, |index| &self.separators[index]).map_or_else(|index| index, |index| index + 1)
    }

    fn record(&mut self, key: &[u8], version: Version, cached: Option<Bytes>) -> Recorded {
        let index = self.child_of(key);
        let child = &mut self.children[index];
        let Recorded { previous, split } = child.node.record(key, version, cached);
        child.live = adjusted(child.live, &previous, &version);
        if let Some((separator, right)) = split {
            let live = right.live();
            child.live -= live;
            let separators = &mut self.separators;
            separators.insert(index, separator);
            self.heads.insert(index, separators.len(), LEAF_GROWTH, |index| &separators[index]);
            self.children.insert(index + 1, Child { live, node: Box::new(right) });
        }
        Recorded { previous, split: self.split_if_full(index + 1) }
    }

    /// Splits off the right part. Where keys arrive in order the left part stays nearly full.
    fn split_if_full(&mut self, inserted: usize) -> Option<(Box<[u8]>, Node)> {
        if self.children.len() <= INNER_CHILDREN_MAX {
            return None;
        }
        let at = if inserted + 1 >= self.children.len() { self.children.len() - 2 } else { self.children.len() / 2 };
        let Self { mut separators, mut children, .. } = std::mem::take(self);
        let right = Self::new(separators.split_off(at), children.split_off(at));
        let separator = separators.pop().expect("one separator between two children");
        *self = Self::new(separators, children);
        Some((separator, Node::Inner(right)))
    }

    fn remove(&mut self, index: usize) {
        self.children.remove(index);
        if !self.separators.is_empty() {
            self.separators.remove(index.saturating_sub(1));
            self.heads.remove(index.saturating_sub(1));
        }
    }

    /// Joins a child with its right neighbour when both fit well into one node.
    fn merge_right(&mut self, index: usize) {
        if index + 1 >= self.children.len() {
            return;
        }
        let fits = match (&*self.children[index].node, &*self.children[index + 1].node) {
            (Node::Leaf(left), Node::Leaf(right)) => left.entries.len() + right.entries.len() <= LEAF_ENTRIES_MAX / 2,
            (Node::Inner(left), Node::Inner(right)) => {
                left.children.len() + right.children.len() <= INNER_CHILDREN_MAX / 2
            }
            _ => unreachable!("all leaves are equally deep"),
        };
        if !fits {
            return;
        }
        let right = self.children.remove(index + 1);
        let separator = self.separators.remove(index);
        self.heads.remove(index);
        let left = &mut self.children[index];
        left.live += right.live;
        match (&mut *left.node, *right.node) {
            (Node::Leaf(left), Node::Leaf(mut right)) => {
                let mut entries = std::mem::take(&mut left.entries);
                entries.append(&mut right.entries);
                *left = Leaf::new(entries);
            }
            (Node::Inner(left), Node::Inner(mut right)) => {
                let Inner { mut separators, mut children, .. } = std::mem::take(left);
                separators.push(separator);
                separators.append(&mut right.separators);
                children.append(&mut right.children);
                *left = Inner::new(separators, children);
            }
            _ => unreachable!("all leaves are equally deep"),
        }
    }
}

impl Node {
    fn empty() -> Self {
        Self::Leaf(Leaf::default())
    }

    fn live(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.entries.iter().filter(|entry| entry.is_live()).count(),
            Self::Inner(inner) => inner.children.iter().map(|child| child.live).sum(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Leaf(leaf) => leaf.entries.is_empty(),
            Self::Inner(inner) => inner.children.is_empty(),
        }
    }

    fn record(&mut self, key: &[u8], version: Version, cached: Option<Bytes>) -> Recorded {
        match self {
            Self::Leaf(leaf) => leaf.record(key, version, cached),
            Self::Inner(inner) => inner.record(key, version, cached),
        }
    }

    /// Live keys below `key`, or up to and with it.
    fn live_below(&self, key: &[u8], inclusive: bool) -> usize {
        match self {
            Self::Leaf(leaf) => {
                let end = match leaf.search(key) {
                    Ok(index) => index + usize::from(inclusive),
                    Err(index) => index,
                };
                leaf.entries[..end].iter().filter(|entry| entry.is_live()).count()
            }
            Self::Inner(inner) => {
                let index = inner.child_of(key);
                let left: usize = inner.children[..index].iter().map(|child| child.live).sum();
                left + inner.children[index].node.live_below(key, inclusive)
            }
        }
    }

    fn scan<'a>(
        &'a self,
        start: Option<&[u8]>,
        end: Bound<&[u8]>,
        visit: &mut dyn FnMut(&'a Entry) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        match self {
            Self::Leaf(leaf) => {
                let first = start.map_or(0, |start| leaf.lower_bound(start));
                for entry in &leaf.entries[first..] {
                    let inside = match end {
                        Bound::Unbounded => true,
                        Bound::Excluded(end) => *entry.key < *end,
                        Bound::Included(end) => *entry.key <= *end,
                    };
                    if !inside {
                        return ControlFlow::Break(());
                    }
                    visit(entry)?;
                }
            }
            Self::Inner(inner) => {
                let first = start.map_or(0, |start| inner.child_of(start));
                for (index, child) in inner.children.iter().enumerate().skip(first) {
                    let start = if index == first { start } else { None };
                    child.node.scan(start, end, visit)?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn retain_leaf(&mut self, from: &[u8], keep: &mut dyn FnMut(&mut Entry) -> bool) -> Option<Box<[u8]>> {
        match self {
            Self::Leaf(leaf) => {
                let before = leaf.entries.len();
                leaf.entries.retain_mut(|entry| {
                    let kept = *entry.key < *from || keep(entry);
                    assert!(kept || !entry.is_live(), "a live key is never dropped");
                    kept
                });
                if leaf.entries.len() < before {
                    *leaf = Leaf::new(std::mem::take(&mut leaf.entries));
                }
                None
            }
            Self::Inner(inner) => {
                let index = inner.child_of(from);
                let next = inner.children[index].node.retain_leaf(from, keep);
                let next = next.or_else(|| inner.separators.get(index).cloned());
                if inner.children[index].node.is_empty() {
                    inner.remove(index);
                } else {
                    inner.merge_right(index);
                }
                next
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::mvcc::record::Stamp;

    fn version(main: i64, live: bool) -> Version {
        Version { stamp: Stamp::first(main), size: 1, live, create_revision: main, version: 1, lease: 0 }
    }

    fn keys(tree: &Tree) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        let _ = tree.scan(b"", Bound::Unbounded, &mut |entry| {
            keys.push(entry.key.to_vec());
            ControlFlow::Continue(())
        });
        keys
    }

    /// Drops everything that is not live, leaf by leaf.
    fn prune(tree: &mut Tree) {
        let mut next = Some(Box::from(&b""[..]));
        while let Some(from) = next {
            next = tree.retain_leaf(&from, &mut |entry| entry.is_live());
        }
    }

    #[test]
    fn keys_in_order_fill_leaves_and_count_in_order() {
        let mut tree = Tree::default();
        for n in 0..10_000_u32 {
            tree.record(&n.to_be_bytes(), version(i64::from(n) + 2, true), None);
        }
        assert_eq!(tree.live(), 10_000);
        let (low, high) = (100_u32.to_be_bytes(), 9_000_u32.to_be_bytes());
        assert_eq!(tree.count(&low, Bound::Excluded(&high)), 8_900);
        assert_eq!(tree.count(&low, Bound::Included(&high)), 8_901);
        assert_eq!(tree.count(&high, Bound::Excluded(&low)), 0);
        assert_eq!(tree.get(&low).map(|entry| entry.newest().stamp.main), Some(102));
    }

    fn leaves(node: &Node, visit: &mut dyn FnMut(&Vec<Entry>)) {
        match node {
            Node::Leaf(leaf) => visit(&leaf.entries),
            Node::Inner(inner) => inner.children.iter().for_each(|child| leaves(&child.node, visit)),
        }
    }

    #[test]
    fn keys_nearly_in_order_waste_little_memory() {
        let mut tree = Tree::default();
        for n in 0..20_000_u32 {
            // Eight writers, each a little ahead of or behind the others.
            let key = n / 8 * 8 + (n * 5) % 8;
            tree.record(&key.to_be_bytes(), version(i64::from(n) + 2, true), None);
        }
        let (mut used, mut held) = (0, 0);
        leaves(&tree.root, &mut |entries| {
            used += entries.len();
            held += entries.capacity();
        });
        assert_eq!(used, 20_000);
        assert!(held <= used * 5 / 4, "room for {held} entries, of which {used} are there");
    }

    proptest! {
        #[test]
        fn the_tree_is_a_sorted_map_with_counts(
            changes in prop::collection::vec((0_u16..600, prop::bool::weighted(0.6), prop::bool::weighted(0.002)), 1..3000),
            ranges in prop::collection::vec((0_u16..600, 0_u16..600), 20),
        ) {
            let mut tree = Tree::default();
            let mut model: BTreeMap<[u8; 2], bool> = BTreeMap::new();
            for (main, (key, live, pruned)) in changes.into_iter().enumerate() {
                let key = key.to_be_bytes();
                let previous = tree.record(&key, version(i64::try_from(main)? + 2, live), None);
                prop_assert_eq!(previous.version.map(|version| version.live), model.insert(key, live));
                if pruned {
                    prune(&mut tree);
                    model.retain(|_, live| *live);
                }
            }
            prop_assert_eq!(keys(&tree), model.keys().map(|key| key.to_vec()).collect::<Vec<_>>());
            for (start, end) in ranges {
                let (start, end) = (start.to_be_bytes(), end.to_be_bytes());
                let expected = model.iter().filter(|(key, live)| **live && start <= **key && **key < end).count();
                prop_assert_eq!(tree.count(&start, Bound::Excluded(&end)), expected);
            }
            prune(&mut tree);
            model.retain(|_, live| *live);
            prop_assert_eq!(keys(&tree), model.keys().map(|key| key.to_vec()).collect::<Vec<_>>());
            prop_assert_eq!(tree.count(b"", Bound::Unbounded), model.len());
        }
    }
}
