//! JSON as etcd's gateway speaks it, through the descriptors of the `.proto` files.
//!
//! Names are those of the `.proto` files (the camel-cased ones are understood too), 64-bit numbers are strings, bytes are
//! base64, what is zero is left out, what is unknown is ignored.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

const INPUT: DeserializeOptions = DeserializeOptions::new().deny_unknown_fields(false);
const OUTPUT: SerializeOptions = SerializeOptions::new().use_proto_field_name(true).skip_default_fields(true);

/// Parses one request.
///
/// # Errors
/// `InvalidArgument` when it is not such a message.
pub(super) fn parse(descriptor: &MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, Status> {
    let mut json = serde_json::Deserializer::from_slice(text);
    DynamicMessage::deserialize_with_options(descriptor.clone(), &mut json, &INPUT)
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

/// Appends a message to `text`.
pub(super) fn print(message: &DynamicMessage, text: &mut Vec<u8>) {
    let mut json = serde_json::Serializer::new(text);
    message.serialize_with_options(&mut json, &OUTPUT).expect("a message of these services has a JSON form");
}

/// Cuts the values out of a body that arrives in pieces: any number of objects, with or without space between them.
#[derive(Debug)]
pub(super) struct Splitter {
    buffer: BytesMut,
    /// Bytes of the buffer that have been looked at.
    seen: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
    bytes_max: usize,
}

impl Splitter {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), seen: 0, depth: 0, in_string: false, escaped: false, bytes_max }
    }

    pub(super) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next complete value, if there is one already.
    ///
    /// # Errors
    /// When it cannot be an object, or is larger than allowed.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.depth == 0 {
            let blank = self.buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            self.buffer.advance(blank);
            match self.buffer.first() {
                None => return Ok(None),
                Some(b'{') => {}
                Some(other) => {
                    let other = char::from(*other).escape_default();
                    return Err(Status::invalid_argument(format!("invalid character '{other}' looking for an object")));
                }
            }
        }
        while self.seen < self.buffer.len() {
            let byte = self.buffer[self.seen];
            self.seen += 1;
            if self.step(byte) {
                let value = self.buffer.split_to(self.seen).freeze();
                self.seen = 0;
                return Ok(Some(value));
            }
        }
        if self.buffer.len() > self.bytes_max {
            let max = self.bytes_max;
            return Err(Status::resource_exhausted(format!("grpc: received message larger than max ({max})")));
        }
        Ok(None)
    }

    /// Whether the body may end here.
    ///
    /// # Errors
    /// When a value has begun and not ended.
    pub(super) fn end(&self) -> Result<(), Status> {
        match self.depth {
            0 => Ok(()),
            _ => Err(Status::invalid_argument("unexpected EOF")),
        }
    }

    /// Whether this byte completes a value.
    fn step(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth -= 1,
            _ => {}
        }
        self.depth == 0
    }
}

/// Lets tonic's client carry messages that are known by their descriptors only.
#[derive(Clone, Debug)]
pub(super) struct Dynamic(pub(super) MessageDescriptor);

impl Codec for Dynamic {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        self.clone()
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

impl Encoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Dynamic {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let message = DynamicMessage::decode(self.0.clone(), buffer);
        message.map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
