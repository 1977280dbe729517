//! HPACK's Huffman code, decoding only (RFC 7541 §5.2 and appendix B).
//!
//! The code is canonical: among codes of one length, numbers ascend with symbols. So the lengths say everything, and
//! decoding needs for each length only its first code and how many there are. One bit at a time is fast enough for the
//! rare connection whose headers are rewritten. The end-of-string symbol is left out: it must not appear in a string.

/// The longest code in bits.
const LENGTH_MAX: usize = 30;

/// The length in bits of each byte's code.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];

/// The code in the form decoding wants.
struct Code {
    /// For each length: the first code of that length.
    first: [u32; LENGTH_MAX + 1],
    /// For each length: how many codes have it.
    count: [u32; LENGTH_MAX + 1],
    /// All symbols by length, then by value.
    symbols: [u8; 256],
}

static CODE: Code = code();

const fn code() -> Code {
    let mut code = Code { first: [0; LENGTH_MAX + 1], count: [0; LENGTH_MAX + 1], symbols: [0; 256] };
    let mut placed = 0;
    let mut next: u32 = 0;
    let mut length = 1;
    while length <= LENGTH_MAX {
        next <<= 1;
        code.first[length] = next;
        let mut symbol = 0;
        while symbol < 256 {
            if LENGTHS[symbol] as usize == length {
                code.symbols[placed] = symbol as u8;
                code.count[length] += 1;
                placed += 1;
            }
            symbol += 1;
        }
        next += code.count[length];
        length += 1;
    }
    assert!(placed == 256, "every byte has a code");
    code
}

/// The string that `coded` stands for; `None` if it holds no such string or is padded wrongly.
pub(super) fn decode(coded: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(coded.len() * 8 / 5);
    let (mut bits, mut length, mut shorter): (u32, usize, u32) = (0, 0, 0);
    for bit in coded.iter().flat_map(|byte| (0..8).rev().map(move |place| byte >> place & 1)) {
        bits = bits << 1 | u32::from(bit);
        length += 1;
        if length > LENGTH_MAX {
            return None;
        }
        match bits.checked_sub(CODE.first[length]) {
            Some(nth) if nth < CODE.count[length] => {
                decoded.push(CODE.symbols[(shorter + nth) as usize]);
                (bits, length, shorter) = (0, 0, 0);
            }
            _ => shorter += CODE.count[length],
        }
    }
    // What is left is padding: less than a byte, all ones (the most significant bits of the end of the string).
    (length < 8 && bits == (1 << length) - 1).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_codes_are_decoded() {
        // 10, 13 and 22 are the only symbols of thirty bits: ...11100, 01, 10; then two bits of padding each 32.
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xf3]).unwrap(), [10]);
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xf7]).unwrap(), [13]);
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xfb]).unwrap(), [22]);
    }

    #[test]
    fn the_end_of_string_symbol_is_refused() {
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff]), None);
    }

    #[test]
    fn padding_is_ones_and_shorter_than_a_byte() {
        assert_eq!(decode(&[0b0001_1111]).unwrap(), b"a");
        assert_eq!(decode(&[0b0001_1110]), None, "a zero in the padding");
        assert_eq!(decode(&[0b0001_1111, 0xff]), None, "a whole byte of padding");
        assert_eq!(decode(&[]).unwrap(), b"");
    }
}
