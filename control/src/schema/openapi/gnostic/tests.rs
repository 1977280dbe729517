//! The message says what the JSON document says, read by the field numbers of gnostic's definition.

use std::collections::HashMap;

use prost::encoding::{WireType, decode_key, decode_varint};
use serde_json::{Map, Value, json};

use crate::registry;
use crate::schema::openapi::{Encoding, OpenApi, Which};

/// Of `OpenAPIv2.proto`, what our documents use: `<json key>=<field number>[s][:<message>]` where `s` is a list, the key `*` is
/// a map's entries, `x-` is the extensions, and `~` a message that only wraps one value.
const MESSAGES: &str = "
Document swagger=1 info=2:Info paths=8:Paths definitions=9:Definitions x-=16
Info title=1 version=2 x-=7
Paths x-=1 *=2:PathItem
Definitions *=1:Schema
PathItem get=2:Operation put=3:Operation post=4:Operation delete=5:Operation patch=8:Operation parameters=9s:ParametersItem x-=10
Operation produces=6s consumes=7s parameters=8s:ParametersItem responses=9:Responses x-=13
ParametersItem ~=1:Parameter
Parameter ~=1:BodyParameter ~=2:NonBodyParameter
NonBodyParameter ~=3:QueryParameterSubSchema ~=4:PathParameterSubSchema
BodyParameter description=1 name=2 in=3 required=4 schema=5:Schema x-=6
QueryParameterSubSchema required=1 in=2 description=3 name=4 type=6 uniqueItems=20 x-=23
PathParameterSubSchema required=1 in=2 description=3 name=4 type=5 uniqueItems=19 x-=22
Responses *=1:ResponseValue
ResponseValue ~=1:Response
Response description=1 schema=2:SchemaItem x-=5
SchemaItem ~=1:Schema
Schema $ref=1 format=2 description=4 required=19s additionalProperties=21:AdditionalPropertiesItem type=22:TypeItem items=23:ItemsItem properties=25:Properties x-=31
AdditionalPropertiesItem ~=1:Schema ~=2
TypeItem ~=1
ItemsItem ~=1:Schema
Properties *=1:Schema
NamedAny name=1 value=2:Any
Any yaml=2
";

#[derive(Clone, Copy)]
struct Field {
    key: &'static str,
    is_list: bool,
    message: Option<&'static str>,
}

type Messages = HashMap<&'static str, HashMap<u32, Field>>;

fn messages() -> Messages {
    let field = |text: &'static str| {
        let (key, rest) = text.split_once('=').unwrap();
        let (number, message) = rest.split_once(':').map_or((rest, None), |(number, message)| (number, Some(message)));
        let is_list = number.ends_with('s');
        (number.trim_end_matches('s').parse().unwrap(), Field { key, is_list, message })
    };
    let lines = MESSAGES.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(name, fields)| (name, fields.split(' ').map(field).collect())).collect()
}

/// A field's value on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn next<'a>(rest: &mut &'a [u8]) -> (u32, Wire<'a>) {
    let (number, wire_type) = decode_key(rest).unwrap();
    let varint = decode_varint(rest).unwrap();
    let wire = match wire_type {
        WireType::Varint => Wire::Number(varint),
        WireType::LengthDelimited => {
            let (bytes, after) = rest.split_at(usize::try_from(varint).unwrap());
            *rest = after;
            Wire::Bytes(bytes)
        }
        other => panic!("{other:?}"),
    };
    (number, wire)
}

fn decode(messages: &Messages, name: &str, mut rest: &[u8]) -> Value {
    let mut object = Map::new();
    while !rest.is_empty() {
        let (number, wire) = next(&mut rest);
        let Field { key, is_list, message } = messages[name][&number];
        if let ("*" | "x-", Wire::Bytes(bytes)) = (key, &wire) {
            let (key, value) = entry(messages, message, bytes);
            object.insert(key, value);
            continue;
        }
        let value = match (wire, message) {
            (Wire::Number(number), None) => json!(number == 1),
            (Wire::Bytes(bytes), Some(message)) => decode(messages, message, bytes),
            (Wire::Bytes(bytes), None) => json!(std::str::from_utf8(bytes).unwrap()),
            (Wire::Number(_), Some(message)) => panic!("{message} is a message"),
        };
        if key == "~" {
            return value;
        }
        if is_list {
            object.entry(key).or_insert_with(|| json!([])).as_array_mut().unwrap().push(value);
        } else {
            assert!(object.insert(key.into(), value).is_none(), "{name}.{key} twice");
        }
    }
    Value::Object(object)
}

/// An entry of a map, or an extension when there is no message.
fn entry(messages: &Messages, message: Option<&str>, mut rest: &[u8]) -> (String, Value) {
    let Some(message) = message else {
        let named = decode(messages, "NamedAny", rest);
        let value = serde_json::from_str(named["value"]["yaml"].as_str().unwrap()).unwrap();
        return (named["name"].as_str().unwrap().to_owned(), value);
    };
    let ((1, Wire::Bytes(name)), (2, Wire::Bytes(value))) = (next(&mut rest), next(&mut rest)) else {
        panic!("{message}")
    };
    (String::from_utf8(name.to_vec()).unwrap(), decode(messages, message, value))
}

#[test]
fn the_message_says_what_the_json_says() {
    let documents = OpenApi::new(registry::kinds());
    let json = documents.document(&Which::V2(Encoding::Json)).unwrap().plain();
    let message = documents.document(&Which::V2(Encoding::Protobuf)).unwrap().plain();
    let decoded = decode(&messages(), "Document", &message);
    let expected: Value = serde_json::from_slice(&json).unwrap();
    assert!(decoded == expected, "the message differs from the JSON document");
    assert!(expected["definitions"].as_object().unwrap().len() > 200);
}
