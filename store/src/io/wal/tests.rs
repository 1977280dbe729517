//! The log against a disk that forgets, tears and lies.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;

use super::super::disk::simulated::SimulatedDisk;
use super::super::random::SeededRandom;
use super::{OpenError, Wal, WalOptions};
use crate::wal::recovery::Damage;
use crate::wal::segment::{Owner, SEGMENT_HEADER};
use crate::wal::{Entry, EntryId};

const OWNER: Owner = Owner { cluster: 0xc1, member: 0xa1 };

fn options(segment_bytes: u64) -> WalOptions {
    WalOptions { dir: PathBuf::from("/log"), owner: OWNER, segment_bytes, cache_bytes: 1 << 20, fsync: true }
}

fn open_with(disk: &SimulatedDisk, options: WalOptions) -> Result<Wal, OpenError> {
    static SEED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    let seed = SEED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Wal::open(Arc::new(disk.clone()), &SeededRandom::new(seed), options)
}

fn open(disk: &SimulatedDisk) -> Wal {
    open_with(disk, options(64 << 10)).expect("a legal log")
}

fn id(index: u64) -> EntryId {
    EntryId { term: 1, node: 7, index }
}

fn entry(index: u64, size: usize) -> Entry {
    Entry { id: id(index), kind: 1, payload: Bytes::from(vec![index as u8; size]) }
}

/// Runs `change` and waits until the log calls it durable.
fn durably(change: impl FnOnce(super::Done)) {
    let (done, wait) = mpsc::channel();
    change(Box::new(move || done.send(()).expect("the test waits")));
    wait.recv_timeout(std::time::Duration::from_secs(10)).expect("the log's thread answers");
}

fn append(wal: &Wal, index: u64, size: usize) {
    durably(|done| wal.append(vec![entry(index, size)], done));
}

fn contents(wal: &Wal) -> Vec<Entry> {
    wal.reader().read(0, u64::MAX, usize::MAX).expect("readable")
}

fn indices(wal: &Wal) -> Vec<u64> {
    contents(wal).iter().map(|entry| entry.id.index).collect()
}

#[test]
fn what_was_durable_is_there_after_a_power_cut() {
    let disk = SimulatedDisk::default();
    let wal = open(&disk);
    for index in 0..20 {
        append(&wal, index, 100);
    }
    durably(|done| wal.save_vote(Bytes::from_static(b"vote"), done));
    let left = disk.crash(0);
    drop(wal);
    let wal = open(&left);
    assert_eq!(contents(&wal), (0..20).map(|index| entry(index, 100)).collect::<Vec<_>>());
    assert_eq!(wal.reader().vote(), Bytes::from_static(b"vote"));
}

#[test]
fn a_last_frame_torn_at_any_byte_is_there_whole_or_not_at_all() {
    let disk = SimulatedDisk::default();
    let wal = open(&disk);
    for index in 0..3 {
        append(&wal, index, 50);
    }
    disk.lie();
    append(&wal, 3, 50);
    let length = disk.last_unsynced().expect("the lie left a write unsynced");
    for kept in 0..=length {
        let left = disk.crash(kept);
        let recovered = open(&left);
        // The frame's padding is zeros on either side of the cut.
        let whole = indices(&recovered).len() == 4;
        assert_eq!(indices(&recovered), if whole { vec![0, 1, 2, 3] } else { vec![0, 1, 2] }, "{kept} bytes kept");
        assert!(whole == (kept >= length - 7) || kept >= length - 7, "{kept} of {length} bytes are not a frame");
        // What is written in its place is as durable as anything.
        let next = indices(&recovered).len() as u64;
        append(&recovered, next, 10);
        let again = left.crash(0);
        drop(recovered);
        assert_eq!(indices(&open(&again)), (0..=next).collect::<Vec<_>>(), "{kept} bytes kept");
    }
}

#[test]
fn a_disk_that_lied_leaves_a_legal_prefix() {
    let disk = SimulatedDisk::default();
    let wal = open(&disk);
    append(&wal, 0, 50);
    disk.lie();
    for index in 1..10 {
        append(&wal, index, 50);
    }
    // All unsynced writes but the last are lost; a frame that vouches for lost ones proves the loss.
    let left = disk.crash(0);
    assert_eq!(indices(&open(&left)), [0]);
    let left = disk.crash(usize::MAX);
    let lost = open_with(&left, options(64 << 10)).err().expect("acknowledged data is gone");
    assert!(matches!(lost, OpenError::Damage(Damage::Lost { .. })), "{lost}");
}

#[test]
fn rot_in_the_middle_is_refused() {
    let disk = SimulatedDisk::default();
    let wal = open(&disk);
    for index in 0..5 {
        append(&wal, index, 50);
    }
    drop(wal);
    disk.flip(Path::new("/log/0000000000000001.wal"), SEGMENT_HEADER + 150);
    let lost = open_with(&disk, options(64 << 10)).err().expect("acknowledged data is gone");
    assert!(matches!(lost, OpenError::Damage(Damage::Lost { segment: 1, .. })), "{lost}");
}

#[test]
fn another_members_log_is_refused() {
    let disk = SimulatedDisk::default();
    drop(open(&disk));
    let other = WalOptions { owner: Owner { cluster: 0xc1, member: 0xa2 }, ..options(64 << 10) };
    let refused = open_with(&disk, other).err().expect("another member's");
    assert_eq!(refused.to_string(), "it belongs to member a1 of cluster c1, but this is member a2 of cluster c1");
}

#[test]
fn truncation_and_replacement_survive() {
    let disk = SimulatedDisk::default();
    let wal = open(&disk);
    for index in 0..6 {
        append(&wal, index, 20);
    }
    wal.truncate(3);
    let replaced = Entry { id: EntryId { term: 2, node: 8, index: 3 }, kind: 0, payload: Bytes::new() };
    durably(|done| wal.append(vec![replaced.clone()], done));
    let left = disk.crash(0);
    drop(wal);
    let wal = open(&left);
    assert_eq!(contents(&wal), [entry(0, 20), entry(1, 20), entry(2, 20), replaced]);
}

#[test]
fn segments_are_filled_purged_and_reused() {
    let disk = SimulatedDisk::default();
    let small = WalOptions { cache_bytes: 0, ..options(8 << 10) };
    let wal = open_with(&disk, small.clone()).expect("a legal log");
    durably(|done| wal.save_vote(Bytes::from_static(b"kept"), done));
    for index in 0..100 {
        append(&wal, index, 500);
    }
    // Larger than a segment.
    append(&wal, 100, 20_000);
    assert_eq!(indices(&wal), (0..=100).collect::<Vec<_>>(), "read back from the files");
    let beyond = wal.reader().last_beyond(48 << 10).expect("sizes are known").expect("it is larger");
    assert!((50..100).contains(&beyond), "{beyond}");
    wal.purge(id(90));
    append(&wal, 101, 500);
    drop(wal);
    let files = disk.paths().len();
    assert!(files < 12, "{files} files are left of about 20");
    let wal = open_with(&disk, small).expect("a legal log");
    assert_eq!(indices(&wal), (91..=101).collect::<Vec<_>>());
    assert_eq!(wal.reader().bounds(), (Some(id(90)), Some(id(101))));
    assert_eq!(wal.reader().vote(), Bytes::from_static(b"kept"), "carried by the headers");
}

#[test]
fn a_log_that_is_purged_all_along_opens_at_any_point() {
    let disk = SimulatedDisk::default();
    let small = WalOptions { cache_bytes: 0, ..options(8 << 10) };
    let wal = open_with(&disk, small.clone()).expect("a legal log");
    for index in 0..200_u64 {
        append(&wal, index, 500);
        if index > 0 && index.is_multiple_of(5) {
            wal.purge(id(index.saturating_sub(30)));
        }
        if index % 7 == 3 {
            let left = open_with(&disk.crash(0), small.clone()).expect("a legal log");
            let first = contents(&left)[0].id.index;
            assert!(first + 36 > index, "{first} is long purged at {index}");
            assert_eq!(indices(&left), (first..=index).collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_group_is_reported_newest_first() {
    let disk = SimulatedDisk::default();
    let wal = open(&disk);
    let (done, wait) = mpsc::channel();
    for index in 0..50 {
        let done = done.clone();
        wal.append(vec![entry(index, 10)], Box::new(move || done.send(index).expect("the test waits")));
    }
    drop(wal);
    let mut order: Vec<u64> = wait.try_iter().collect();
    let groups = order.chunk_by(|a, b| a > b).count();
    assert!(groups <= 50);
    for group in order.chunk_by(|a, b| a > b) {
        assert!(group.windows(2).all(|pair| pair[0] == pair[1] + 1), "{group:?}");
    }
    order.sort_unstable();
    assert_eq!(order, (0..50).collect::<Vec<_>>());
}
