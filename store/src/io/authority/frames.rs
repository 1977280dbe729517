//! What a client sends on one connection, frame by frame: which bytes go on to the server, and when nothing is left to do.
//!
//! The first header block decides. If HTTP/2's server would accept its authority, everything passes from there on. If
//! not, each header block of the connection is decoded and written anew with an authority that can be parsed; all of
//! them, because the client's later blocks refer to the table that the first ones filled.
//!
//! Whatever is not understood also passes from there on, so that the server answers it as the protocol says. This is
//! safe in the middle of a connection too: the server's table is then empty, as nothing written here is indexed, so that
//! it holds the newest entries of the client's table or fewer. An index means the same in both, or is refused.

use bytes::Bytes;
use http::uri::Authority;

use super::hpack::{self, Decoder, Field};
use crate::limits;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;
/// The largest payload of a frame that every receiver accepts (RFC 9113 §4.2).
const PAYLOAD_BYTES_MAX: usize = 1 << 14;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Stream dependency and weight, in a HEADERS frame that is flagged so.
const PRIORITY_BYTES: usize = 5;

/// The client's half of a connection, until it needs no more attention.
#[derive(Debug)]
pub(super) struct Frames {
    position: Position,
    verdict: Verdict,
    /// Bytes that have not gone on: the head of a frame, or the frames of an open header block.
    held: Vec<u8>,
    /// Where the last frame starts in `held`.
    frame: usize,
    /// The open header block: what the frames in `held` carry.
    block: Vec<u8>,
    decoder: Decoder,
}

/// Where in the stream of bytes the next one belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// In the preface, of which so many bytes were seen.
    Preface(usize),
    /// In the head of a frame.
    Head,
    /// In a frame that is not looked at, with so many bytes to come.
    Passing(usize),
    /// In a frame of a header block, with so many bytes to come.
    Block(usize),
}

/// What is known about the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// No header block was complete yet.
    Undecided,
    /// The client's authority cannot be parsed: header blocks are written anew.
    Rewrite,
    /// Nothing more is to be done: all bytes pass.
    Pass,
}

impl Frames {
    pub(super) fn new() -> Frames {
        Frames {
            position: Position::Preface(0),
            verdict: Verdict::Undecided,
            held: Vec::new(),
            frame: 0,
            block: Vec::new(),
            decoder: Decoder::new(),
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Takes the next bytes of the client and appends to `output` what the server gets for them.
    pub(super) fn take(&mut self, mut input: &[u8], output: &mut Vec<u8>) {
        while !input.is_empty() {
            if self.verdict == Verdict::Pass {
                output.extend_from_slice(input);
                return;
            }
            let taken = match self.position {
                Position::Preface(seen) => self.preface(seen, input, output),
                Position::Head => self.head(input, output),
                Position::Passing(left) => self.passing(left, input, output),
                Position::Block(left) => self.payload(left, input, output),
            };
            input = &input[taken..];
        }
    }

    /// Appends to `output` what was held when the client's half ended, as it came.
    pub(super) fn end(&mut self, output: &mut Vec<u8>) {
        self.pass(output);
    }

    fn preface(&mut self, seen: usize, input: &[u8], output: &mut Vec<u8>) -> usize {
        let taken = input.len().min(PREFACE.len() - seen);
        if input[..taken] != PREFACE[seen..seen + taken] {
            self.pass(output);
            return 0;
        }
        output.extend_from_slice(&input[..taken]);
        self.position = match seen + taken {
            seen if seen == PREFACE.len() => Position::Head,
            seen => Position::Preface(seen),
        };
        taken
    }

    fn head(&mut self, input: &[u8], output: &mut Vec<u8>) -> usize {
        let taken = input.len().min(self.frame + HEAD_BYTES - self.held.len());
        self.held.extend_from_slice(&input[..taken]);
        if let Some(head) = Head::parse(&self.held[self.frame..]) {
            self.enter(head, output);
        }
        taken
    }

    /// The head of a frame is complete, at the end of `held`.
    fn enter(&mut self, head: Head, output: &mut Vec<u8>) {
        let continues = Head::parse(&self.held).filter(|_| self.frame > 0);
        match (head.kind, continues) {
            (CONTINUATION, Some(first)) if head.stream == first.stream => {}
            (HEADERS, None) => {}
            (_, Some(_)) => return self.pass(output),
            (_, None) => {
                output.append(&mut self.held);
                self.position = if head.length > 0 { Position::Passing(head.length) } else { Position::Head };
                return;
            }
        }
        if self.held.len() + head.length > limits::HEADER_BLOCK_BYTES_MAX {
            return self.pass(output);
        }
        self.position = Position::Block(head.length);
        if head.length == 0 {
            self.frame_complete(output);
        }
    }

    fn passing(&mut self, left: usize, input: &[u8], output: &mut Vec<u8>) -> usize {
        let taken = input.len().min(left);
        output.extend_from_slice(&input[..taken]);
        self.position = if left > taken { Position::Passing(left - taken) } else { Position::Head };
        taken
    }

    fn payload(&mut self, left: usize, input: &[u8], output: &mut Vec<u8>) -> usize {
        let taken = input.len().min(left);
        self.held.extend_from_slice(&input[..taken]);
        self.position = Position::Block(left - taken);
        if taken == left {
            self.frame_complete(output);
        }
        taken
    }

    /// The last frame in `held`, of a header block, is complete.
    fn frame_complete(&mut self, output: &mut Vec<u8>) {
        let frame = &self.held[self.frame..];
        let head = Head::parse(frame).expect("a frame that is complete has a head");
        let Some((_, fragment)) = head.split(&frame[HEAD_BYTES..]) else {
            return self.pass(output);
        };
        self.block.extend_from_slice(fragment);
        self.position = Position::Head;
        self.frame = self.held.len();
        if head.flags & END_HEADERS != 0 {
            self.block_complete(output);
        }
    }

    fn block_complete(&mut self, output: &mut Vec<u8>) {
        let Ok(mut fields) = self.decoder.decode(&self.block) else {
            return self.pass(output);
        };
        if self.verdict == Verdict::Undecided {
            let malformed = |field: &Field| is_authority(field) && Authority::try_from(&field.value[..]).is_err();
            if !fields.iter().any(malformed) {
                return self.pass(output);
            }
            self.verdict = Verdict::Rewrite;
        }
        fields.retain_mut(|field| !is_authority(field) || mend(field));
        self.block.clear();
        for field in &fields {
            hpack::encode(field, &mut self.block);
        }
        self.write_block(output);
        self.held.clear();
        self.block.clear();
        self.frame = 0;
    }

    /// Writes `block` in place of the frames in `held`, without their padding.
    fn write_block(&self, output: &mut Vec<u8>) {
        let first = Head::parse(&self.held).expect("a block has a first frame");
        let payload = &self.held[HEAD_BYTES..HEAD_BYTES + first.length];
        let (priority, _) = first.split(payload).expect("the frame was split before");
        let (fragment, mut rest) = self.block.split_at(self.block.len().min(PAYLOAD_BYTES_MAX - priority.len()));
        let ends = |rest: &[u8]| if rest.is_empty() { END_HEADERS } else { 0 };
        let flags = first.flags & (END_STREAM | PRIORITY) | ends(rest);
        Head { length: priority.len() + fragment.len(), kind: HEADERS, flags, stream: first.stream }.write(output);
        output.extend_from_slice(priority);
        output.extend_from_slice(fragment);
        while !rest.is_empty() {
            let (fragment, next) = rest.split_at(rest.len().min(PAYLOAD_BYTES_MAX));
            rest = next;
            let head = Head { length: fragment.len(), kind: CONTINUATION, flags: ends(rest), stream: first.stream };
            head.write(output);
            output.extend_from_slice(fragment);
        }
    }

    fn pass(&mut self, output: &mut Vec<u8>) {
        self.verdict = Verdict::Pass;
        output.append(&mut self.held);
    }
}

fn is_authority(field: &Field) -> bool {
    field.name == ":authority"
}

/// Takes scheme and path off an authority; false if what is left is none either, and the field has to go.
fn mend(field: &mut Field) -> bool {
    let value = &field.value[..];
    let start = value.windows(3).position(|part| part == b"://").map_or(0, |scheme| scheme + 3);
    let length = value[start..].iter().position(|byte| b"/?#".contains(byte)).unwrap_or(value.len() - start);
    let authority: Bytes = field.value.slice(start..start + length);
    let parses = Authority::try_from(&authority[..]).is_ok();
    field.value = authority;
    parses
}

/// The head of a frame (RFC 9113 §4.1).
#[derive(Clone, Copy, Debug)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: [u8; 4],
}

impl Head {
    /// The head that `bytes` start with, if they hold all of it.
    fn parse(bytes: &[u8]) -> Option<Head> {
        let &[a, b, c, kind, flags, ref stream @ ..] = bytes.first_chunk::<HEAD_BYTES>()?;
        Some(Head { length: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c), kind, flags, stream: *stream })
    }

    fn write(&self, output: &mut Vec<u8>) {
        let Head { length, kind, flags, stream } = *self;
        output.extend([(length >> 16) as u8, (length >> 8) as u8, length as u8, kind, flags]);
        output.extend(stream);
    }

    /// Priority and header block fragment of a whole payload, without padding; `None` if it is too short for its flags.
    fn split<'a>(&self, mut payload: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        if self.kind != HEADERS {
            return Some((&[], payload));
        }
        if self.flags & PADDED != 0 {
            let (&padding, rest) = payload.split_first()?;
            payload = &rest[..rest.len().checked_sub(usize::from(padding))?];
        }
        payload.split_at_checked(if self.flags & PRIORITY != 0 { PRIORITY_BYTES } else { 0 })
    }
}
