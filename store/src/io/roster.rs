//! The members as this one last knew them, in a small file of its own beside the log and the state.
//!
//! The state holds the table of members, and a state that cannot be trusted is when the others are needed most: their
//! addresses must not be lost with it, and the flags of the first start may know neither those who were added later nor
//! where anyone has moved. The file is replaced as a whole, so that a crash leaves the old one or the new one.
//!
//! ```text
//! magic 8 | crc32c of the rest u32 | roster, as `consensus::codec` writes it
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use crate::consensus::codec;
use crate::membership::join::Roster;

const MAGIC: &[u8; 8] = b"kontikiM";
const HEADER: usize = 12;
const NAME: &str = "members";

/// Replaces what is remembered in `dir`, durably. Blocks on the disk.
///
/// # Errors
/// When the disk refuses.
pub fn save(dir: &Path, roster: &Roster) -> io::Result<()> {
    let body = codec::encode(roster);
    let next = dir.join("members.next");
    let mut file = File::create(&next)?;
    file.write_all(&[&MAGIC[..], &crc32c::crc32c(&body).to_le_bytes(), &body].concat())?;
    file.sync_all()?;
    fs::rename(&next, dir.join(NAME))?;
    File::open(dir)?.sync_all()
}

/// What is remembered in `dir`, if anything is. Blocks on the disk.
///
/// # Errors
/// When the file cannot be read, or does not hold what was written.
pub fn load(dir: &Path) -> io::Result<Option<Roster>> {
    let bytes = match fs::read(dir.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the file of members is damaged");
    let (header, body) = bytes.split_at_checked(HEADER).ok_or_else(damaged)?;
    let (magic, checksum) = header.split_at(MAGIC.len());
    if magic != MAGIC || checksum != crc32c::crc32c(body).to_le_bytes() {
        return Err(damaged());
    }
    codec::decode(body).map(Some).map_err(|_| damaged())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClusterId, MemberId};
    use crate::membership::join::Listed;

    #[test]
    fn what_was_saved_last_is_loaded_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
        let listed =
            |id| Listed { id: MemberId(id), name: format!("m{id}"), peer_urls: vec![format!("http://h:{id}")] };
        for members in [vec![listed(1)], vec![listed(1), listed(2)]] {
            let roster = Roster { cluster: ClusterId(7), members };
            save(dir.path(), &roster).unwrap();
            assert_eq!(load(dir.path()).unwrap(), Some(roster));
        }
        let path = dir.path().join(NAME);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, changed).unwrap();
            assert!(load(dir.path()).is_err(), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(load(dir.path()).is_err(), "{at} bytes");
        }
    }
}
