//! The protobuf wire format: field numbers and four kinds of values.

use super::DecodeError;

/// Walks the fields of one message.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

/// A value as it stands on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    pub(super) fn bytes(self, tag: u32) -> Result<&'a [u8], DecodeError> {
        if let Self::Bytes(bytes) = self { Ok(bytes) } else { Err(DecodeError::WireType(tag)) }
    }

    pub(super) fn text(self, tag: u32) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes(tag)?).map_err(|_| DecodeError::Utf8)
    }

    pub(super) fn varint(self, tag: u32) -> Result<u64, DecodeError> {
        if let Self::Varint(number) = self { Ok(number) } else { Err(DecodeError::WireType(tag)) }
    }

    pub(super) fn fixed64(self, tag: u32) -> Result<u64, DecodeError> {
        if let Self::Fixed64(bits) = self { Ok(bits) } else { Err(DecodeError::WireType(tag)) }
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, DecodeError> {
        if self.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).map_err(|_| DecodeError::Malformed("field number"))?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                Wire::Fixed64(u64::from_le_bytes(bytes.try_into().expect("eight bytes were taken")))
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| DecodeError::Truncated)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            // Groups (3, 4) are not used by Kubernetes.
            _ => return Err(DecodeError::WireType(tag)),
        };
        Ok(Some((tag, wire)))
    }

    pub(super) fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0_u64;
        for at in 0..10 {
            let (first, rest) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
            self.rest = rest;
            number |= u64::from(first & 0x7f) << (7 * at);
            if first & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::Malformed("varint"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}
