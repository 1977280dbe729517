//! The walk: what is expected at each place, and where the walk stands.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::leaf;
use crate::schema::table::{Element, Field, Message, Shape, Table};

/// Complaints so far, and the path to the current place.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) complaints: Vec<String>,
    /// The first wrong type; the walk goes on for the sake of the syntax only.
    pub(super) type_error: Option<String>,
    path: Vec<Step>,
    /// The messages that hold the current place, the innermost last.
    messages: Vec<&'static Message>,
}

#[derive(Debug)]
enum Step {
    /// A field of a message.
    Field(&'static str),
    /// A key of a map or of what has no schema.
    Key(String),
    Index(usize),
}

/// What a value should be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expect {
    Message(&'static Message),
    Field(&'static Field),
    /// An item of a list or a value of a map.
    Element(&'static Field),
    /// A list in a map of lists.
    ListInMap(&'static Field),
    /// Scalars and objects as they come: no schema.
    Anything,
}

/// The value at the current place. None is `null`: absence.
pub(super) struct Node<'w> {
    pub(super) walk: &'w mut Walk,
    pub(super) expect: Expect,
}

impl Walk {
    /// `spec.containers[0].image`, followed by `last`.
    fn path_to(&self, last: &str) -> String {
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Index(at) => path.push_str(&format!("[{at}]")),
                Step::Field(name) => push_name(&mut path, name),
                Step::Key(name) => push_name(&mut path, name),
            }
        }
        push_name(&mut path, last);
        path
    }

    /// Go names the innermost struct and the path of fields without indices.
    fn wrong_type(&mut self, got: &str, expected: &str) {
        let names: Vec<&str> =
            self.path.iter().filter_map(|s| if let Step::Field(n) = s { Some(*n) } else { None }).collect();
        let place = match self.messages.last() {
            Some(message) if !names.is_empty() => format!("struct field {}.{}", message.short_name(), names.join(".")),
            _ => "value".to_owned(),
        };
        self.fail(format!("json: cannot unmarshal {got} into Go {place} of type {expected}"));
    }

    fn fail(&mut self, error: String) {
        self.type_error.get_or_insert(error);
    }
}

fn push_name(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

impl Expect {
    /// The type as Go prints it.
    fn go_type(self) -> String {
        match self {
            Self::Message(message) => go_message(message),
            Self::Field(field) => match field.shape {
                Shape::One => go_element(field.element),
                Shape::List => format!("[]{}", go_element(field.element)),
                Shape::Map => format!("map[string]{}", go_element(field.element)),
                Shape::MapOfLists => format!("map[string][]{}", go_element(field.element)),
            },
            Self::Element(field) => go_element(field.element),
            Self::ListInMap(field) => format!("[]{}", go_element(field.element)),
            Self::Anything => "interface {}".to_owned(),
        }
    }

    /// The element expected here; none where a list or a map belongs.
    fn element(self) -> Option<Element> {
        match self {
            Self::Field(field) if field.shape == Shape::One => Some(field.element),
            Self::Element(field) => Some(field.element),
            _ => None,
        }
    }

    fn message(self) -> Option<&'static Message> {
        match (self, self.element()) {
            (Self::Message(message), _) => Some(message),
            (_, Some(Element::Message(id))) => Some(Table::get().message(id)),
            _ => None,
        }
    }

    fn is_untyped(self) -> bool {
        matches!(self, Self::Anything) || matches!(self.element(), Some(Element::Raw | Element::Fields))
    }
}

/// `v1.Container`.
fn go_message(message: &Message) -> String {
    let package = message.name.rsplit('.').nth(1).unwrap_or_default();
    format!("{package}.{}", message.short_name())
}

fn go_element(element: Element) -> String {
    let name = match element {
        Element::String => "string",
        Element::Int32 => "int32",
        Element::Int64 => "int64",
        Element::Double => "float64",
        Element::Bool => "bool",
        Element::Bytes => "[]uint8",
        Element::Quantity => "resource.Quantity",
        Element::IntOrString => "intstr.IntOrString",
        Element::Time => "v1.Time",
        Element::MicroTime => "v1.MicroTime",
        Element::Raw => "runtime.RawExtension",
        Element::Fields => "v1.FieldsV1",
        Element::Message(id) => return go_message(Table::get().message(id)),
    };
    name.to_owned()
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(self.scalar(value.into(), "bool"))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(self.scalar(value.into(), "number"))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(self.scalar(value.into(), "number"))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number is not finite"))?;
        Ok(self.scalar(number.into(), "number"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(self.scalar(value.into(), "string"))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Self::Value, E> {
        Ok(self.scalar(value.into(), "string"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Self { walk, expect } = self;
        let item = match expect {
            Expect::Field(field) if field.shape == Shape::List => Expect::Element(field),
            Expect::ListInMap(field) => Expect::Element(field),
            expect if expect.is_untyped() => Expect::Anything,
            expect => {
                walk.wrong_type("array", &expect.go_type());
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(None);
            }
        };
        let mut items = Vec::new();
        loop {
            walk.path.push(Step::Index(items.len()));
            let next = seq.next_element_seed(Node { walk: &mut *walk, expect: item })?;
            walk.path.pop();
            let Some(value) = next else { break };
            items.push(value.unwrap_or_else(|| leaf::zero(item.element())));
        }
        Ok(Some(Value::Array(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self { walk, expect } = self;
        if let Some(message) = expect.message() {
            walk.messages.push(message);
            let object = message_fields(walk, message, map)?;
            walk.messages.pop();
            return Ok(Some(Value::Object(object)));
        }
        let value = match expect {
            Expect::Field(field) if field.shape == Shape::Map => Expect::Element(field),
            Expect::Field(field) if field.shape == Shape::MapOfLists => Expect::ListInMap(field),
            expect if expect.is_untyped() => Expect::Anything,
            expect => {
                walk.wrong_type("object", &expect.go_type());
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Ok(None);
            }
        };
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if object.contains_key(&key) {
                let complaint = format!("duplicate field \"{}\"", walk.path_to(&key));
                walk.complaints.push(complaint);
            }
            walk.path.push(Step::Key(key.clone()));
            let entry = map.next_value_seed(Node { walk: &mut *walk, expect: value })?;
            walk.path.pop();
            object.insert(key, entry.unwrap_or_else(|| leaf::zero(value.element())));
        }
        Ok(Some(Value::Object(object)))
    }
}

fn message_fields<'de, A: MapAccess<'de>>(
    walk: &mut Walk,
    message: &'static Message,
    mut map: A,
) -> Result<Map<String, Value>, A::Error> {
    let mut object = Map::new();
    let mut seen: Vec<&'static str> = Vec::new();
    while let Some(key) = map.next_key::<String>()? {
        let (name, expect) = match message.field(&key) {
            Some(field) => (field.name, Expect::Field(field)),
            None if message.is_kind && key == "apiVersion" => ("apiVersion", Expect::Anything),
            None if message.is_kind && key == "kind" => ("kind", Expect::Anything),
            None => {
                map.next_value::<IgnoredAny>()?;
                let complaint = format!("unknown field \"{}\"", walk.path_to(&key));
                if !walk.complaints.contains(&complaint) {
                    walk.complaints.push(complaint);
                }
                continue;
            }
        };
        if seen.contains(&name) {
            let complaint = format!("duplicate field \"{}\"", walk.path_to(name));
            walk.complaints.push(complaint);
        } else {
            seen.push(name);
        }
        walk.path.push(Step::Field(name));
        let value = map.next_value_seed(Node { walk: &mut *walk, expect })?;
        walk.path.pop();
        if let Some(value) = value {
            object.insert(key, value);
        }
    }
    Ok(object)
}

impl Node<'_> {
    fn scalar(self, value: Value, got: &str) -> Option<Value> {
        if self.expect.is_untyped() {
            return Some(value);
        }
        match self.expect.element().map(|element| leaf::read(element, value)) {
            Some(Ok(value)) => return Some(value),
            Some(Err(leaf::Wrong::Format(why))) => self.walk.fail(why),
            Some(Err(leaf::Wrong::Number(number))) => {
                self.walk.wrong_type(&format!("number {number}"), &self.expect.go_type());
            }
            Some(Err(leaf::Wrong::Type)) | None => self.walk.wrong_type(got, &self.expect.go_type()),
        }
        None
    }
}
