//! HPACK (RFC 7541): a whole decoder, and the plainest of encoders.
//!
//! The decoder keeps the sender's dynamic table. The encoder never indexes, so what it writes can be read without any
//! table and in any order. The crates that offer this are unmaintained or known to panic on hostile input; the part
//! needed here is small.

use std::collections::VecDeque;

use bytes::Bytes;
use thiserror::Error;

use super::huffman;
use crate::limits;

/// The largest dynamic table a client may use: the protocol's default, which hyper does not change in its settings.
const TABLE_SIZE_MAX: usize = 4096;
/// What an entry counts besides its bytes (RFC 7541 §4.1).
const ENTRY_OVERHEAD: usize = 32;

/// One header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: Bytes,
    pub(super) value: Bytes,
    /// The sender asks that no intermediary put this value in a table.
    pub(super) never_indexed: bool,
}

impl Field {
    fn size(&self) -> usize {
        self.name.len() + self.value.len() + ENTRY_OVERHEAD
    }
}

/// Why a header block could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum DecodeError {
    #[error("the block ends within a field")]
    Truncated,
    #[error("an integer is too large")]
    Integer,
    #[error("no entry has this index")]
    Index,
    #[error("a string is not Huffman-coded as it says")]
    Huffman,
    #[error("a table size update is too large or comes after a field")]
    SizeUpdate,
    #[error("the fields are larger than the limit")]
    TooLarge,
}

/// Decodes the header blocks of one direction of a connection, in order.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Newest first.
    table: VecDeque<Field>,
    size: usize,
    size_max: usize,
}

impl Decoder {
    pub(super) fn new() -> Decoder {
        Decoder { table: VecDeque::new(), size: 0, size_max: TABLE_SIZE_MAX }
    }

    /// The fields of the next block. After an error the table is undefined.
    pub(super) fn decode(&mut self, block: &[u8]) -> Result<Vec<Field>, DecodeError> {
        let mut input = Input(block);
        let mut fields = Vec::new();
        let mut size = 0;
        while let Some(&first) = input.0.first() {
            let field = match first {
                0b1000_0000.. => self.entry(input.integer(7)?)?,
                0b0100_0000.. => {
                    let field = self.literal(&mut input, 6)?;
                    self.insert(field.clone());
                    field
                }
                0b0010_0000.. => {
                    let size_max = input.integer(5)?;
                    if size_max > TABLE_SIZE_MAX || !fields.is_empty() {
                        return Err(DecodeError::SizeUpdate);
                    }
                    self.size_max = size_max;
                    self.evict();
                    continue;
                }
                0b0001_0000.. => Field { never_indexed: true, ..self.literal(&mut input, 4)? },
                _ => self.literal(&mut input, 4)?,
            };
            // A reference of one byte may stand for kilobytes.
            size += field.size();
            if size > limits::HEADER_BLOCK_BYTES_MAX {
                return Err(DecodeError::TooLarge);
            }
            fields.push(field);
        }
        Ok(fields)
    }

    fn literal(&self, input: &mut Input<'_>, prefix_bits: u32) -> Result<Field, DecodeError> {
        let name = match input.integer(prefix_bits)? {
            0 => input.string()?,
            index => self.entry(index)?.name.clone(),
        };
        Ok(Field { name, value: input.string()?, never_indexed: false })
    }

    fn entry(&self, index: usize) -> Result<Field, DecodeError> {
        let index = index.checked_sub(1).ok_or(DecodeError::Index)?;
        match STATIC_TABLE.get(index) {
            Some((name, value)) => Ok(Field {
                name: Bytes::from_static(name.as_bytes()),
                value: Bytes::from_static(value.as_bytes()),
                never_indexed: false,
            }),
            None => self.table.get(index - STATIC_TABLE.len()).cloned().ok_or(DecodeError::Index),
        }
    }

    fn insert(&mut self, field: Field) {
        self.size += field.size();
        self.table.push_front(field);
        // An entry larger than the table empties it and is not kept itself (RFC 7541 §4.4).
        self.evict();
    }

    fn evict(&mut self) {
        while self.size > self.size_max {
            let oldest = self.table.pop_back().expect("an empty table has size 0");
            self.size -= oldest.size();
        }
    }
}

/// Appends `field` to `block`, as a literal that no table remembers.
pub(super) fn encode(field: &Field, block: &mut Vec<u8>) {
    block.push(if field.never_indexed { 0b0001_0000 } else { 0 });
    for string in [&field.name, &field.value] {
        encode_length(string.len(), block);
        block.extend_from_slice(string);
    }
}

fn encode_length(length: usize, block: &mut Vec<u8>) {
    const PREFIX: usize = 0b0111_1111;
    if length < PREFIX {
        block.push(length as u8);
        return;
    }
    block.push(PREFIX as u8);
    let mut rest = length - PREFIX;
    while rest >= 0x80 {
        block.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    block.push(rest as u8);
}

/// What is left of a block.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.0.split_first().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(byte)
    }

    /// An integer whose first byte has `prefix_bits` bits for it (RFC 7541 §5.1).
    fn integer(&mut self, prefix_bits: u32) -> Result<usize, DecodeError> {
        let prefix = (1_usize << prefix_bits) - 1;
        let mut value = usize::from(self.byte()?) & prefix;
        if value < prefix {
            return Ok(value);
        }
        // Four more bytes say more than any block can hold; longer forms are refused, as §5.1 allows.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Integer)
    }

    /// A string literal, coded or not (RFC 7541 §5.2).
    fn string(&mut self) -> Result<Bytes, DecodeError> {
        let coded = *self.0.first().ok_or(DecodeError::Truncated)? & 0x80 != 0;
        let length = self.integer(7)?;
        let (string, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        match coded {
            true => huffman::decode(string).map(Bytes::from).ok_or(DecodeError::Huffman),
            false => Ok(Bytes::copy_from_slice(string)),
        }
    }
}

/// RFC 7541, appendix A.
const STATIC_TABLE: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|digit| !digit.is_ascii_whitespace()).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn text(fields: &[Field]) -> Vec<String> {
        fields.iter().map(|field| format!("{} {}", field.name.escape_ascii(), field.value.escape_ascii())).collect()
    }

    fn check(decoder: &mut Decoder, hex: &str, expected: &[&str], table_size: usize) {
        assert_eq!(text(&decoder.decode(&bytes(hex)).unwrap()), expected, "{hex}");
        assert_eq!(decoder.size, table_size, "size of the table after {hex}");
    }

    const FIRST: [&str; 4] = [":method GET", ":scheme http", ":path /", ":authority www.example.com"];
    const SECOND: [&str; 5] =
        [":method GET", ":scheme http", ":path /", ":authority www.example.com", "cache-control no-cache"];
    const THIRD: [&str; 5] =
        [":method GET", ":scheme https", ":path /index.html", ":authority www.example.com", "custom-key custom-value"];

    #[test]
    fn integers_of_appendix_c_1() {
        assert_eq!(Input(&[0b0000_1010]).integer(5), Ok(10));
        assert_eq!(Input(&[0b0001_1111, 0b1001_1010, 0b0000_1010]).integer(5), Ok(1337));
        assert_eq!(Input(&[42]).integer(8), Ok(42));
        assert_eq!(Input(&[0xff; 9]).integer(8), Err(DecodeError::Integer));
    }

    #[test]
    fn representations_of_appendix_c_2() {
        let indexed = "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572";
        check(&mut Decoder::new(), indexed, &["custom-key custom-header"], 55);
        check(&mut Decoder::new(), "040c 2f73 616d 706c 652f 7061 7468", &[":path /sample/path"], 0);
        check(&mut Decoder::new(), "82", &[":method GET"], 0);
        let secret = Decoder::new().decode(&bytes("1008 7061 7373 776f 7264 0673 6563 7265 74")).unwrap();
        assert_eq!((text(&secret), secret[0].never_indexed), (vec!["password secret".into()], true));
    }

    #[test]
    fn requests_of_appendix_c_3() {
        let mut decoder = Decoder::new();
        check(&mut decoder, "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", &FIRST, 57);
        check(&mut decoder, "8286 84be 5808 6e6f 2d63 6163 6865", &SECOND, 110);
        let third = "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65";
        check(&mut decoder, third, &THIRD, 164);
    }

    #[test]
    fn huffman_coded_requests_of_appendix_c_4() {
        let mut decoder = Decoder::new();
        check(&mut decoder, "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", &FIRST, 57);
        check(&mut decoder, "8286 84be 5886 a8eb 1064 9cbf", &SECOND, 110);
        check(&mut decoder, "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", &THIRD, 164);
    }

    #[test]
    fn huffman_coded_responses_with_eviction_of_appendix_c_6() {
        let mut decoder = Decoder::new();
        decoder.decode(&bytes("3fe101")).unwrap(); // a table of 256
        let first = "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e
                     919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
        let date = "date Mon, 21 Oct 2013 20:13:21 GMT";
        let location = "location https://www.example.com";
        check(&mut decoder, first, &[":status 302", "cache-control private", date, location], 222);
        check(&mut decoder, "4883 640e ffc1 c0bf", &[":status 307", "cache-control private", date, location], 222);
        let third = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7
                     821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed
                     4ee5 b106 3d50 07";
        let expected = [
            ":status 200",
            "cache-control private",
            "date Mon, 21 Oct 2013 20:13:22 GMT",
            location,
            "content-encoding gzip",
            "set-cookie foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
        ];
        check(&mut decoder, third, &expected, 215);
    }

    #[test]
    fn hostile_blocks_are_refused() {
        let refused = |hex: &str| Decoder::new().decode(&bytes(hex)).unwrap_err();
        assert_eq!(refused("80"), DecodeError::Index);
        assert_eq!(refused("be"), DecodeError::Index);
        assert_eq!(refused("400a 63"), DecodeError::Truncated);
        assert_eq!(refused("3fe2 1f"), DecodeError::SizeUpdate); // 4097
        assert_eq!(refused("82 20"), DecodeError::SizeUpdate);
        assert_eq!(refused("0001 6181 00"), DecodeError::Huffman);
        assert_eq!(refused("ff ffff ffff ffff ff"), DecodeError::Integer);
    }

    #[test]
    fn many_references_to_a_large_entry_are_refused() {
        let mut block = bytes("4001 61 7fa1 1e"); // a value of 4,000 bytes
        block.extend([b'x'; 4000]);
        let mut decoder = Decoder::new();
        decoder.decode(&block).unwrap();
        assert_eq!(decoder.decode(&[0xbe; 64]), Err(DecodeError::TooLarge));
    }

    #[test]
    fn an_entry_larger_than_the_table_empties_it() {
        let mut decoder = Decoder::new();
        decoder.decode(&bytes("4001 6101 62")).unwrap();
        decoder.decode(&bytes("3f 01")).unwrap(); // a table of 32
        assert!(decoder.table.is_empty());
        decoder.decode(&bytes("4001 6101 62")).unwrap();
        assert_eq!((decoder.table.len(), decoder.size), (0, 0));
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same_and_leaves_no_trace() {
        for length in [0, 1, 126, 127, 128, 254, 255, 256, 20_000] {
            let field =
                Field { name: "x-field".into(), value: vec![b'v'; length].into(), never_indexed: length % 2 == 0 };
            let mut block = Vec::new();
            encode(&field, &mut block);
            let mut decoder = Decoder::new();
            assert_eq!(decoder.decode(&block).unwrap(), [field], "{length}");
            assert!(decoder.table.is_empty());
        }
    }
}
