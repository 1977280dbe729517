//! Files that come back as they were written, are what bbolt accepts, and never harm when they are damaged.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::format::{BRANCH, ELEMENT, LEAF, PAGE_HEADER, PAGE_SIZE, PageHeader, u32_at, u64_at};
use super::writer::{Layout, Writer};
use super::{BoltError, Bucket, Db, Source, Value};
use crate::io::engine::Step;

#[derive(Clone, Debug, PartialEq)]
enum Content {
    Plain(Vec<u8>),
    Bucket(Tree),
}

type Tree = BTreeMap<Vec<u8>, Content>;

fn fill<W: std::io::Write>(writer: &mut Writer<W>, tree: &Tree) {
    for (key, content) in tree {
        match content {
            Content::Plain(value) => writer.put(key, value).unwrap(),
            Content::Bucket(tree) => {
                writer.begin_bucket(key);
                fill(writer, tree);
                writer.end_bucket().unwrap();
            }
        }
    }
}

fn write(tree: &Tree) -> Vec<u8> {
    let mut measuring = Writer::measuring(std::io::sink());
    fill(&mut measuring, tree);
    let (layout, _): (Layout, _) = measuring.finish().unwrap();
    let mut writer = Writer::writing(Vec::new(), layout).unwrap();
    fill(&mut writer, tree);
    let (_, file) = writer.finish().unwrap();
    assert_eq!(file.len() as u64, layout.size());
    file
}

fn read<S: Source + ?Sized>(db: &Db<'_, S>, bucket: &Bucket) -> Result<Tree, BoltError> {
    let mut pairs = Vec::new();
    db.walk(bucket, &mut |key, value| {
        pairs.push((
            key.to_vec(),
            match value {
                Value::Plain(value) => Ok(value.to_vec()),
                Value::Bucket(bucket) => Err(bucket),
            },
        ));
        Ok::<_, BoltError>(Step::Next)
    })?;
    let content = |(key, value)| {
        let content = match value {
            Ok(value) => Content::Plain(value),
            Err(bucket) => Content::Bucket(read(db, &bucket)?),
        };
        Ok((key, content))
    };
    pairs.into_iter().map(content).collect()
}

fn read_file(file: &[u8]) -> Result<Tree, BoltError> {
    let db = Db::open(file)?;
    read(&db, &db.root())
}

/// What bbolt checks and relies on: every page is reached once and is what it says, branches have two children or more and
/// name their first keys. Answers the depth of the tree.
fn check(file: &[u8]) -> usize {
    let db = Db::open(file).unwrap();
    let mut seen = BTreeSet::from([0, 1, 2]);
    let root = u64_at(file, PAGE_HEADER + 16).unwrap();
    let (_, depth) = check_page(file, root, &mut seen);
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), (0..db.size() / PAGE_SIZE as u64).collect::<Vec<_>>());
    depth
}

/// The page's first key, and how deep its tree is.
fn check_page(file: &[u8], id: u64, seen: &mut BTreeSet<u64>) -> (Vec<u8>, usize) {
    let page = &file[id as usize * PAGE_SIZE..];
    let header = PageHeader::decode(page).unwrap();
    assert_eq!(header.id, id);
    (id..=id + u64::from(header.overflow)).for_each(|id| assert!(seen.insert(id), "page {id} is used twice"));
    let (mut first, mut depth) = (Vec::new(), 1);
    for place in 0..usize::from(header.count) {
        let at = PAGE_HEADER + place * ELEMENT;
        let word = |n: usize| u32_at(page, at + 4 * n).unwrap() as usize;
        let key = match header.flags {
            LEAF => {
                let (key, value) = (at + word(1), at + word(1) + word(2));
                let root = u64_at(page, value).unwrap_or(0);
                if word(0) == 1 && root > 0 {
                    depth = depth.max(check_page(file, root, seen).1);
                }
                page[key..value].to_vec()
            }
            BRANCH => {
                assert!(header.count >= 2, "a branch with one child");
                let key = page[at + word(0)..at + word(0) + word(1)].to_vec();
                let (child_first, child_depth) = check_page(file, u64_at(page, at + 8).unwrap(), seen);
                assert_eq!(key, child_first);
                depth = depth.max(child_depth + 1);
                key
            }
            other => panic!("page {id} is of type {other}"),
        };
        if place == 0 {
            first = key;
        }
    }
    (first, depth)
}

fn pairs(count: u32, key_length: usize, value_length: usize) -> Tree {
    (0..count)
        .map(|n| {
            let mut key = n.to_be_bytes().to_vec();
            key.resize(key_length, b'k');
            (key, Content::Plain(vec![n as u8; value_length]))
        })
        .collect()
}

fn one_bucket(tree: Tree) -> Tree {
    BTreeMap::from([(b"key".to_vec(), Content::Bucket(tree))])
}

#[test]
fn an_empty_file_and_empty_buckets_come_back() {
    for tree in [Tree::new(), one_bucket(Tree::new())] {
        let file = write(&tree);
        check(&file);
        assert_eq!(read_file(&file).unwrap(), tree);
    }
}

#[test]
fn every_number_of_keys_makes_a_sound_tree() {
    // Keys of this size put about four children under a branch, so that every shape of the last branches comes up.
    for count in (0..300).chain([1000, 3000]) {
        let tree = one_bucket(pairs(count, 900, 100));
        let file = write(&tree);
        check(&file);
        assert_eq!(read_file(&file).unwrap(), tree, "{count} keys");
    }
}

#[test]
fn many_small_keys_make_several_levels_of_branches() {
    let tree = one_bucket(pairs(300_000, 17, 100));
    let file = write(&tree);
    // Two leaves above: the root bucket's.
    assert!(check(&file) >= 3);
    assert_eq!(read_file(&file).unwrap(), tree);
}

#[test]
fn huge_keys_and_values_take_as_many_pages_as_they_need() {
    let mut tree = pairs(5, 32_768, 10);
    tree.insert(vec![0xff], Content::Plain(vec![7; (3 << 20) + 1]));
    tree.insert(vec![0xff, 1], Content::Plain(vec![8; PAGE_SIZE - PAGE_HEADER - ELEMENT - 2]));
    let tree = one_bucket(tree);
    let file = write(&tree);
    check(&file);
    assert_eq!(read_file(&file).unwrap(), tree);
}

#[test]
fn the_second_meta_page_is_enough() {
    let tree = one_bucket(pairs(100, 17, 100));
    let mut file = write(&tree);
    file[..PAGE_SIZE].fill(0);
    assert_eq!(read_file(&file).unwrap(), tree);
    file[PAGE_SIZE..2 * PAGE_SIZE].fill(0);
    assert_eq!(read_file(&file).unwrap_err().to_string(), "not a bbolt file: the magic number is missing");
}

#[test]
fn what_is_appended_to_a_file_does_not_count() {
    let tree = one_bucket(pairs(100, 17, 100));
    let mut file = write(&tree);
    file.extend_from_slice(&[1; 32]);
    assert_eq!(read_file(&file).unwrap(), tree);
    file.truncate(file.len() - 33);
    let error = read_file(&file).unwrap_err().to_string();
    assert!(error.starts_with("not a bbolt file: it ends early"), "{error}");
}

#[test]
fn a_circle_of_pages_is_noticed() {
    let mut file = write(&one_bucket(pairs(10_000, 100, 100)));
    // Every branch points to itself, or to the first branch.
    let branches: Vec<usize> = (3..file.len() / PAGE_SIZE)
        .filter(|id| PageHeader::decode(&file[id * PAGE_SIZE..]).unwrap().flags == BRANCH)
        .collect();
    assert!(branches.len() > 2);
    for id in &branches {
        let child = branches.iter().find(|other| other != &id).unwrap();
        let at = id * PAGE_SIZE + PAGE_HEADER + 8;
        file[at..at + 8].copy_from_slice(&(*child as u64).to_le_bytes());
    }
    let error = read_file(&file).unwrap_err().to_string();
    assert!(error.contains("deeper than") || error.contains("circle"), "{error}");
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![prop::collection::vec(any::<u8>(), 1..24), prop::collection::vec(any::<u8>(), 1..3000)]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => prop::collection::vec(any::<u8>(), 0..200), 1 => prop::collection::vec(any::<u8>(), 0..20_000)]
}

fn tree() -> impl Strategy<Value = Tree> {
    let plain = value().prop_map(Content::Plain);
    let leaf = prop::collection::btree_map(key(), plain, 0..80);
    leaf.prop_recursive(3, 200, 8, |inner| {
        let content = prop_oneof![value().prop_map(Content::Plain), inner.prop_map(Content::Bucket)];
        prop::collection::btree_map(key(), content, 0..8)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_buckets_come_back(tree in tree()) {
        let file = write(&tree);
        check(&file);
        prop_assert_eq!(read_file(&file).unwrap(), tree);
    }

    #[test]
    fn a_damaged_file_is_an_error_or_read_and_never_a_panic(
        tree in tree(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        keep in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut file = write(&tree);
        for (place, byte) in damage {
            // Half of the damage goes where the structure is.
            let place = place.index(file.len());
            let place = if byte % 2 == 0 { place / PAGE_SIZE * PAGE_SIZE + place % 64 } else { place };
            file[place] = byte;
        }
        if cut {
            file.truncate(keep.index(file.len()));
        }
        let _ = read_file(&file);
    }

    #[test]
    fn garbage_is_not_a_file(bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
        prop_assert!(read_file(&bytes).is_err());
    }

    /// Pages of garbage behind sound meta pages: the reader gets past the front door.
    #[test]
    fn garbage_pages_are_errors_or_read(
        bytes in prop::collection::vec(any::<u8>(), PAGE_SIZE..6 * PAGE_SIZE),
        flags in prop::collection::vec(prop_oneof![Just(LEAF), Just(BRANCH)], 8),
        count in 0u16..300,
    ) {
        let pages = 3 + bytes.len() / PAGE_SIZE;
        let mut file = write(&one_bucket(pairs(2000, 17, 100)));
        let root = u64_at(&file, PAGE_HEADER + 16).unwrap() as usize;
        for id in (3..pages).chain([root]) {
            let at = id * PAGE_SIZE;
            file[at..at + PAGE_SIZE].copy_from_slice(&bytes[..PAGE_SIZE]);
            let header = PageHeader { id: id as u64, flags: flags[id % 8], count, overflow: 0 };
            file[at..at + PAGE_HEADER].copy_from_slice(&header.encode());
        }
        let _ = read_file(&file);
    }
}
