//! As much of DER as finding a key in its wrapping takes: SubjectPublicKeyInfo, certificates, and SEC 1 private keys.

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
const EXPLICIT_0: u8 = 0xa0;
const EXPLICIT_1: u8 = 0xa1;

/// What is left of an encoding.
#[derive(Clone, Copy, Debug)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let length = if first < 0x80 {
            usize::from(first)
        } else {
            let (length, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
            rest = after;
            // Four bytes reach beyond any key.
            if length.len() > 4 {
                return None;
            }
            length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn expect(&mut self, expected: u8) -> Option<&'a [u8]> {
        let (tag, content) = self.next()?;
        (tag == expected).then_some(content)
    }

    /// The content of an element that may be missing.
    fn optional(&mut self, expected: u8) -> Option<&'a [u8]> {
        let mut ahead = *self;
        let content = ahead.expect(expected)?;
        *self = ahead;
        Some(content)
    }
}

fn bits(content: &[u8]) -> Option<&[u8]> {
    // No unused bits: a key is whole bytes.
    content.strip_prefix(&[0])
}

/// The key inside a SubjectPublicKeyInfo, in the form of its algorithm.
pub(super) fn public_key(spki: &[u8]) -> Option<&[u8]> {
    let mut fields = Der(Der(spki).expect(SEQUENCE)?);
    fields.expect(SEQUENCE)?;
    bits(fields.expect(BIT_STRING)?)
}

/// The key inside a certificate.
pub(super) fn certificate_key(certificate: &[u8]) -> Option<&[u8]> {
    let mut fields = Der(Der(Der(certificate).expect(SEQUENCE)?).expect(SEQUENCE)?);
    fields.optional(EXPLICIT_0);
    fields.expect(INTEGER)?;
    // The signature's algorithm, issuer, validity, subject.
    for _ in 0..4 {
        fields.expect(SEQUENCE)?;
    }
    let mut key = Der(fields.expect(SEQUENCE)?);
    key.expect(SEQUENCE)?;
    bits(key.expect(BIT_STRING)?)
}

/// The private and the public key inside `EC PRIVATE KEY`, as OpenSSL writes it.
pub(super) fn sec1_keys(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Der(Der(key).expect(SEQUENCE)?);
    fields.expect(INTEGER)?;
    let private = fields.expect(OCTET_STRING)?;
    fields.optional(EXPLICIT_0);
    let public = bits(Der(fields.expect(EXPLICIT_1)?).expect(BIT_STRING)?)?;
    Some((private, public))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_encodings_are_refused_and_never_a_panic() {
        let spki = [0x30, 0x08, 0x30, 0x02, 0x05, 0x00, 0x03, 0x02, 0x00, 0x2a];
        assert_eq!(public_key(&spki), Some(&[0x2a][..]));
        for length in 0..spki.len() {
            assert_eq!(public_key(&spki[..length]), None, "{length} bytes");
        }
        assert_eq!(public_key(&[0x30, 0x89, 1, 1, 1, 1, 1, 1, 1, 1, 1]), None);
        assert_eq!(certificate_key(&spki), None);
        assert_eq!(sec1_keys(&spki), None);
    }
}
