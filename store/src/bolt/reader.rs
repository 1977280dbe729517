//! Reads a bbolt file of any size page by page; never holds more than one path from the root to a leaf.
//!
//! Nothing in the file is believed: every length is checked before it is used, keys must ascend, and a walk that visits
//! more pages than there are ends. So garbage is an error with a page number, never a panic or an endless loop.

use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::BoltError;
use super::format::{self, BRANCH, BUCKET, BUCKET_HEADER, ELEMENT, LEAF, META_BYTES, Meta, PAGE_HEADER, PageHeader};
use crate::io::engine::Step;
use crate::limits::{BOLT_DEPTH_MAX, BOLT_PAGE_BYTES_MAX};

/// Where a file's bytes come from.
pub trait Source {
    /// # Errors
    /// When the world refuses.
    fn size(&self) -> io::Result<u64>;
    /// Fills `buffer` from `offset`, or fails.
    ///
    /// # Errors
    /// When the world refuses, or the bytes end before.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Source for std::fs::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

impl Source for [u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let end = start.checked_add(buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(self.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// An open file.
pub struct Db<'a, S: ?Sized> {
    source: &'a S,
    meta: Meta,
}

/// A bucket, ready to be walked.
#[derive(Clone, Debug)]
pub struct Bucket(Root);

#[derive(Clone, Debug)]
enum Root {
    Page(u64),
    Inline { parent: u64, page: Bytes },
}

/// What a key has.
#[derive(Debug)]
pub enum Value<'a> {
    Plain(&'a [u8]),
    Bucket(Bucket),
}

/// What a walk calls with each key.
pub type Visit<'a, E> = dyn FnMut(&[u8], Value<'_>) -> Result<Step, E> + 'a;

/// A leaf or branch page with everything that overflows from it.
struct Page {
    id: u64,
    leaf: bool,
    count: usize,
    bytes: Bytes,
}

impl<'a, S: Source + ?Sized> Db<'a, S> {
    /// Chooses the newest valid meta page.
    ///
    /// # Errors
    /// When neither is valid, or the file is shorter than it says.
    pub fn open(source: &'a S) -> Result<Self, BoltError> {
        let size = source.size()?;
        let meta = newest_meta(source, size)?;
        let promised = meta.pages.checked_mul(u64::from(meta.page_size));
        if promised.is_none_or(|bytes| bytes > size) {
            return Err(BoltError::Invalid(format!(
                "it ends early: {size} bytes, but {} pages of {} bytes are promised",
                meta.pages, meta.page_size
            )));
        }
        Ok(Self { source, meta })
    }

    /// Bytes of the database, without anything that was appended to the file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.meta.pages * u64::from(self.meta.page_size)
    }

    /// The bucket that holds all others.
    #[must_use]
    pub fn root(&self) -> Bucket {
        Bucket(Root::Page(self.meta.root))
    }

    /// The bucket called `name` inside `parent`.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn bucket(&self, parent: &Bucket, name: &[u8]) -> Result<Option<Bucket>, BoltError> {
        let mut found = None;
        self.walk(parent, &mut |key, value| match value {
            Value::Bucket(bucket) if key == name => {
                found = Some(bucket);
                Ok(Step::Stop)
            }
            _ if key > name => Ok(Step::Stop),
            _ => Ok::<_, BoltError>(Step::Next),
        })?;
        Ok(found)
    }

    /// Visits every key of a bucket in order, until `visit` says stop. Buckets inside it are handed over, not entered.
    ///
    /// # Errors
    /// When the file is damaged, or what `visit` fails with.
    pub fn walk<E: From<BoltError>>(&self, bucket: &Bucket, visit: &mut Visit<'_, E>) -> Result<(), E> {
        let first = match &bucket.0 {
            Root::Page(id) => self.page(*id)?,
            Root::Inline { parent, page } => Page::inline(*parent, page.clone())?,
        };
        let mut pages_left = self.meta.pages;
        let mut last: Option<Vec<u8>> = None;
        let mut path = vec![(first, 0)];
        while let Some((page, next)) = path.last_mut() {
            if *next == page.count {
                path.pop();
                continue;
            }
            let place = *next;
            *next += 1;
            if page.leaf {
                let (key, value) = page.leaf_element(place)?;
                ascends(page.id, &mut last, key)?;
                if visit(key, value)? == Step::Stop {
                    return Ok(());
                }
                continue;
            }
            let (page, child) = (page.id, page.branch_element(place)?);
            pages_left = pages_left.checked_sub(1).ok_or_else(|| damaged(page, "the pages form a circle"))?;
            if path.len() >= BOLT_DEPTH_MAX {
                return Err(damaged(page, format!("the tree is deeper than {BOLT_DEPTH_MAX} pages")).into());
            }
            path.push((self.page(child)?, 0));
        }
        Ok(())
    }

    fn page(&self, id: u64) -> Result<Page, BoltError> {
        let page_size = u64::from(self.meta.page_size);
        if id < 2 || id >= self.meta.pages {
            return Err(damaged(id, format!("it is pointed to, but the file has the pages 2 to {}", self.meta.pages)));
        }
        let mut bytes = vec![0; self.meta.page_size as usize];
        self.source.read_at(&mut bytes, id * page_size)?;
        let header = PageHeader::decode(&bytes).expect("a page is longer than its header");
        if header.id != id {
            return Err(damaged(id, format!("it says that it is page {}", header.id)));
        }
        let pages = u64::from(header.overflow) + 1;
        let total = pages * page_size;
        if pages > self.meta.pages - id || total > BOLT_PAGE_BYTES_MAX {
            return Err(damaged(id, format!("it claims {total} bytes")));
        }
        // The length was checked against the file, so what is allocated is there to be read.
        bytes.resize(total as usize, 0);
        if header.overflow > 0 {
            self.source.read_at(&mut bytes[page_size as usize..], (id + 1) * page_size)?;
        }
        Page::new(id, header, bytes.into())
    }
}

/// The newer of the two meta pages, or the valid one.
fn newest_meta<S: Source + ?Sized>(source: &S, size: u64) -> Result<Meta, BoltError> {
    let at = |page_offset: u64| -> Result<Meta, BoltError> {
        let offset = page_offset + PAGE_HEADER as u64;
        if offset + META_BYTES as u64 > size {
            return Err(BoltError::Invalid(format!("{size} bytes are too few")));
        }
        let mut bytes = [0; META_BYTES];
        source.read_at(&mut bytes, offset)?;
        Meta::decode(&bytes)
    };
    let error = match at(0) {
        Ok(first) => {
            let second = at(u64::from(first.page_size)).ok().filter(|second| second.page_size == first.page_size);
            return Ok(second.filter(|second| second.transaction > first.transaction).unwrap_or(first));
        }
        Err(error) => error,
    };
    // Where the second is depends on the page size, which only the first would have told.
    let second = (9..=24).find_map(|power| at(1 << power).ok().filter(|meta| u64::from(meta.page_size) == 1 << power));
    second.ok_or(error)
}

impl Page {
    fn new(id: u64, header: PageHeader, bytes: Bytes) -> Result<Self, BoltError> {
        let leaf = match header.flags {
            LEAF => true,
            BRANCH => false,
            other => return Err(damaged(id, format!("its type is {other:#x}, neither leaf nor branch"))),
        };
        let count = usize::from(header.count);
        if PAGE_HEADER + count * ELEMENT > bytes.len() {
            return Err(damaged(id, format!("{count} elements do not fit into it")));
        }
        Ok(Self { id, leaf, count, bytes })
    }

    fn inline(parent: u64, bytes: Bytes) -> Result<Self, BoltError> {
        let header = PageHeader::decode(&bytes).ok_or_else(|| damaged(parent, "an inline bucket ends early"))?;
        if header.flags != LEAF {
            return Err(damaged(parent, "an inline bucket is not a leaf"));
        }
        Self::new(parent, header, bytes)
    }

    fn element(&self, place: usize) -> [u32; 4] {
        let at = PAGE_HEADER + place * ELEMENT;
        let word = |n: usize| format::u32_at(&self.bytes, at + 4 * n).expect("checked when the page was read");
        [word(0), word(1), word(2), word(3)]
    }

    /// `length` bytes at `position` from element `place` on.
    fn range(&self, place: usize, position: u64, length: u64) -> Result<std::ops::Range<usize>, BoltError> {
        let start = (PAGE_HEADER + place * ELEMENT) as u64 + position;
        let end = start + length;
        let outside = || damaged(self.id, format!("element {place} points outside of it"));
        match end <= self.bytes.len() as u64 {
            true => Ok(start as usize..end as usize),
            false => Err(outside()),
        }
    }

    fn leaf_element(&self, place: usize) -> Result<(&[u8], Value<'_>), BoltError> {
        let [flags, position, key_length, value_length] = self.element(place);
        let (position, key_length) = (u64::from(position), u64::from(key_length));
        let key = self.range(place, position, key_length)?;
        let value = self.range(place, position + key_length, u64::from(value_length))?;
        let key = &self.bytes[key];
        if flags & BUCKET == 0 {
            return Ok((key, Value::Plain(&self.bytes[value])));
        }
        let bytes = self.bytes.slice(value);
        let root = format::u64_at(&bytes, 0).filter(|_| bytes.len() >= BUCKET_HEADER);
        let root = match root.ok_or_else(|| damaged(self.id, "a bucket without a header"))? {
            0 => Root::Inline { parent: self.id, page: bytes.slice(BUCKET_HEADER..) },
            page => Root::Page(page),
        };
        Ok((key, Value::Bucket(Bucket(root))))
    }

    fn branch_element(&self, place: usize) -> Result<u64, BoltError> {
        let [_, _, low, high] = self.element(place);
        let child = u64::from(high) << 32 | u64::from(low);
        match child == self.id {
            true => Err(damaged(self.id, "it points to itself")),
            false => Ok(child),
        }
    }
}

fn ascends(page: u64, last: &mut Option<Vec<u8>>, key: &[u8]) -> Result<(), BoltError> {
    match last {
        Some(last) if &last[..] >= key => return Err(damaged(page, "its keys are not in order")),
        Some(last) => {
            last.clear();
            last.extend_from_slice(key);
        }
        None => *last = Some(key.to_vec()),
    }
    Ok(())
}

fn damaged(page: u64, what: impl Into<String>) -> BoltError {
    BoltError::Damaged { page, what: what.into() }
}
