//! Writes a bbolt file from sorted keys, front to back, in one go and with a few pages of memory.
//!
//! The tree is built from below: a full leaf goes out at once and leaves its first key to the branch above, which goes out
//! when it is full, and so on. Only the two meta pages at the front must know how it ends; so a file is written twice: to
//! nothing, which yields its [`Layout`], and then for real. What is fed must be the same both times.
//!
//! bbolt can go on with the file: a branch never has a single child (its rebalancing relies on that), small buckets are
//! inline, and no page is free.

use std::io::{self, Write};

use super::format::{
    BRANCH, BUCKET, BUCKET_HEADER, ELEMENT, FREELIST, LEAF, META, Meta, PAGE_HEADER, PAGE_SIZE, PageHeader,
};

const FREELIST_PAGE: u64 = 2;
const FIRST_PAGE: u64 = 3;
/// A bucket up to this size lives inside its parent; bbolt's figure.
const INLINE_MAX: usize = PAGE_SIZE / 4;
/// What a branch keeps back, so that its last page is never left with one child.
const KEPT_BACK: usize = 2;

/// How a file turns out: what its meta pages say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    root: u64,
    pages: u64,
}

impl Layout {
    /// Bytes of the file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.pages * PAGE_SIZE as u64
    }
}

/// See the module.
pub struct Writer<W> {
    pages: Pages<W>,
    /// The root bucket, and the ones open inside it.
    open: Vec<OpenBucket>,
    expected: Option<Layout>,
}

struct OpenBucket {
    name: Vec<u8>,
    tree: Tree,
}

struct Pages<W> {
    sink: W,
    next: u64,
}

/// A bucket's tree while it grows.
#[derive(Default)]
struct Tree {
    leaf: Node,
    /// From the lowest branches up.
    branches: Vec<Branch>,
    last_key: Option<Vec<u8>>,
    holds_buckets: bool,
}

#[derive(Default)]
struct Branch {
    node: Node,
    /// Whether a page of this level is out already.
    written: bool,
}

/// A page that is being filled.
#[derive(Default)]
struct Node {
    items: Vec<Item>,
    /// Keys, each followed by its value.
    data: Vec<u8>,
}

struct Item {
    key_length: usize,
    value_length: usize,
    /// A leaf's flags, or the child of a branch.
    flags: u32,
    child: u64,
}

impl<W: Write> Writer<W> {
    /// The first time, to find out the layout. What reaches the sink is no file yet: [`io::sink`] will do.
    #[must_use]
    pub fn measuring(sink: W) -> Self {
        Self::start(sink, None)
    }

    /// The second time, with the layout of the first.
    ///
    /// # Errors
    /// When the sink refuses.
    pub fn writing(mut sink: W, layout: Layout) -> io::Result<Self> {
        for page in 0..2 {
            // The first is the newer one: what a snapshot of bbolt's looks like.
            let meta = Meta {
                page_size: PAGE_SIZE as u32,
                root: layout.root,
                freelist: FREELIST_PAGE,
                pages: layout.pages,
                transaction: 2 - page,
            };
            let header = PageHeader { id: page, flags: META, count: 0, overflow: 0 };
            write_page(&mut sink, header, &[&meta.encode()])?;
        }
        write_page(&mut sink, PageHeader { id: FREELIST_PAGE, flags: FREELIST, count: 0, overflow: 0 }, &[])?;
        Ok(Self::start(sink, Some(layout)))
    }

    fn start(sink: W, expected: Option<Layout>) -> Self {
        let root = OpenBucket { name: Vec::new(), tree: Tree::default() };
        Self { pages: Pages { sink, next: FIRST_PAGE }, open: vec![root], expected }
    }

    /// Opens a bucket inside the one that is open.
    pub fn begin_bucket(&mut self, name: &[u8]) {
        self.open.push(OpenBucket { name: name.to_vec(), tree: Tree::default() });
    }

    /// Adds a key, greater than the one before, to the open bucket.
    ///
    /// # Errors
    /// When the sink refuses.
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let bucket = self.open.last_mut().expect("the root bucket is open until the end");
        bucket.tree.put(&mut self.pages, 0, key, value)
    }

    /// Closes the bucket that was opened last.
    ///
    /// # Errors
    /// When the sink refuses.
    pub fn end_bucket(&mut self) -> io::Result<()> {
        let OpenBucket { name, tree } = self.open.pop().expect("the root bucket is open until the end");
        let value = match tree.inline() {
            Some(value) => value,
            None => {
                let mut value = tree.finish(&mut self.pages)?.to_le_bytes().to_vec();
                value.resize(BUCKET_HEADER, 0);
                value
            }
        };
        let parent = self.open.last_mut().expect("a bucket was begun before it is ended");
        parent.tree.holds_buckets = true;
        parent.tree.put(&mut self.pages, BUCKET, &name, &value)
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// When the sink refuses.
    ///
    /// # Panics
    /// When the file turned out otherwise than the first time.
    pub fn finish(mut self) -> io::Result<(Layout, W)> {
        let root = self.open.pop().expect("the root bucket is open until the end").tree;
        assert!(self.open.is_empty(), "every bucket is ended");
        let root = root.finish(&mut self.pages)?;
        let layout = Layout { root, pages: self.pages.next };
        assert!(self.expected.is_none_or(|expected| expected == layout), "both times the same keys are written");
        Ok((layout, self.pages.sink))
    }
}

impl Tree {
    fn put<W: Write>(&mut self, pages: &mut Pages<W>, flags: u32, key: &[u8], value: &[u8]) -> io::Result<()> {
        assert!(self.last_key.as_deref().is_none_or(|last| last < key), "keys are written in order");
        let last = self.last_key.get_or_insert_default();
        last.clear();
        last.extend_from_slice(key);
        let size = self.leaf.size() + ELEMENT + key.len() + value.len();
        if size > PAGE_SIZE && !self.leaf.items.is_empty() {
            self.write_leaf(pages)?;
        }
        self.leaf.push(key, value, flags, 0);
        Ok(())
    }

    fn write_leaf<W: Write>(&mut self, pages: &mut Pages<W>) -> io::Result<()> {
        let count = self.leaf.items.len();
        let (key, page) = self.leaf.write(pages, LEAF, count)?;
        self.add_child(pages, 0, &key, page)
    }

    fn add_child<W: Write>(&mut self, pages: &mut Pages<W>, level: usize, key: &[u8], page: u64) -> io::Result<()> {
        if level == self.branches.len() {
            self.branches.push(Branch::default());
        }
        let branch = &mut self.branches[level];
        branch.node.push(key, &[], 0, page);
        let count = branch.node.items.len();
        if branch.node.size() > PAGE_SIZE && count >= 2 * KEPT_BACK {
            branch.written = true;
            let (key, page) = branch.node.write(pages, BRANCH, count - KEPT_BACK)?;
            self.add_child(pages, level + 1, &key, page)?;
        }
        Ok(())
    }

    /// The bucket as a value that holds all of it, if it is small enough.
    fn inline(&self) -> Option<Vec<u8>> {
        let fits = self.branches.is_empty() && !self.holds_buckets && self.leaf.size() <= INLINE_MAX;
        fits.then(|| {
            let count = self.leaf.items.len();
            let header = PageHeader { id: 0, flags: LEAF, count: count as u16, overflow: 0 };
            [&[0; BUCKET_HEADER], &header.encode()[..], &self.leaf.elements(LEAF, count), &self.leaf.data].concat()
        })
    }

    /// Writes what is left and answers the root's page.
    fn finish<W: Write>(mut self, pages: &mut Pages<W>) -> io::Result<u64> {
        if self.branches.is_empty() {
            let count = self.leaf.items.len();
            return Ok(self.leaf.write(pages, LEAF, count)?.1);
        }
        self.write_leaf(pages)?;
        let mut level = 0;
        loop {
            let branch = &mut self.branches[level];
            if !branch.written && branch.node.items.len() == 1 {
                return Ok(branch.node.items[0].child);
            }
            let count = branch.node.items.len();
            let (key, page) = branch.node.write(pages, BRANCH, count)?;
            level += 1;
            if level == self.branches.len() {
                return Ok(page);
            }
            self.add_child(pages, level, &key, page)?;
        }
    }
}

impl Node {
    fn size(&self) -> usize {
        PAGE_HEADER + self.items.len() * ELEMENT + self.data.len()
    }

    fn push(&mut self, key: &[u8], value: &[u8], flags: u32, child: u64) {
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
        self.items.push(Item { key_length: key.len(), value_length: value.len(), flags, child });
    }

    /// The elements of the first `count` items.
    fn elements(&self, kind: u16, count: usize) -> Vec<u8> {
        let mut elements = Vec::with_capacity(count * ELEMENT);
        let mut at = 0;
        for (place, item) in self.items[..count].iter().enumerate() {
            let Item { key_length, value_length, flags, child } = *item;
            let position = ((count - place) * ELEMENT + at) as u32;
            let (key, value) = (key_length as u32, value_length as u32);
            if kind == LEAF {
                [flags, position, key, value].iter().for_each(|word| elements.extend_from_slice(&word.to_le_bytes()));
            } else {
                [position, key].iter().for_each(|word| elements.extend_from_slice(&word.to_le_bytes()));
                elements.extend_from_slice(&child.to_le_bytes());
            }
            at += key_length + value_length;
        }
        elements
    }

    /// Writes the first `count` items as a page, forgets them, and answers the first key and the page's number.
    fn write<W: Write>(&mut self, pages: &mut Pages<W>, kind: u16, count: usize) -> io::Result<(Vec<u8>, u64)> {
        let key = self.items.first().map_or_else(Vec::new, |first| self.data[..first.key_length].to_vec());
        let length: usize = self.items[..count].iter().map(|item| item.key_length + item.value_length).sum();
        let elements = self.elements(kind, count);
        let overflow = (PAGE_HEADER + elements.len() + length).div_ceil(PAGE_SIZE) - 1;
        let header = PageHeader { id: pages.next, flags: kind, count: count as u16, overflow: overflow as u32 };
        write_page(&mut pages.sink, header, &[&elements, &self.data[..length]])?;
        pages.next += 1 + overflow as u64;
        self.items.drain(..count);
        self.data.drain(..length);
        Ok((key, header.id))
    }
}

/// The header, the parts, and zeros up to the page's end.
fn write_page<W: Write>(sink: &mut W, header: PageHeader, parts: &[&[u8]]) -> io::Result<()> {
    const ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
    sink.write_all(&header.encode())?;
    let mut written = PAGE_HEADER;
    for part in parts {
        sink.write_all(part)?;
        written += part.len();
    }
    let size = (1 + header.overflow as usize) * PAGE_SIZE;
    sink.write_all(&ZEROS[..size - written])
}
