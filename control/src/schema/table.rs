//! The generated table of messages (`table.txt`), parsed once.
//!
//! Text rather than Rust: 1,900 static structs would cost relocations and compile time, and a reviewer can read the difference
//! when the sources move. Parsing it takes about a millisecond; names stay slices of the program's text. The table is made by
//! `cargo xtask schema-table`, so a malformed line is a bug and stops the process.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::schema::Gvk;

static TEXT: &str = include_str!("table.txt");
static TABLE: LazyLock<Table> = LazyLock::new(|| Table::parse(TEXT));

/// A message of the API: a kind, or a part of one.
#[derive(Debug)]
pub(crate) struct Message {
    /// `core.v1.PodSpec`.
    pub(crate) name: &'static str,
    /// Carries `apiVersion` and `kind`.
    pub(crate) is_kind: bool,
    /// Sorted by JSON name.
    fields: Box<[Field]>,
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    /// Protobuf field number; 0 when the field is not on that wire.
    pub(crate) tag: u16,
    /// The number of the message that Go inlines here and that carries the field; 0 when none does.
    pub(crate) outer_tag: u16,
    pub(crate) shape: Shape,
    pub(crate) element: Element,
    /// A pointer in Go: an explicit zero differs from absence.
    pub(crate) is_pointer: bool,
    /// A scalar that Go writes even when it is zero.
    pub(crate) is_required: bool,
    /// Lists in a map are messages of their own in protobuf.
    pub(crate) is_wrapped: bool,
    pub(crate) patch: Patch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    One,
    List,
    Map,
    MapOfLists,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    String,
    Int32,
    Int64,
    Double,
    Bool,
    Bytes,
    Quantity,
    IntOrString,
    Time,
    MicroTime,
    /// Any JSON, carried as bytes.
    Raw,
    /// `fieldsV1`: any JSON object, carried as bytes.
    Fields,
    Message(MessageId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageId(u16);

/// How strategic merge patch treats a field beyond the default (objects merge, lists replace).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Patch {
    pub(crate) strategy: Strategy,
    /// Fields that `$retainKeys` does not name are dropped.
    pub(crate) is_retain_keys: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Strategy {
    #[default]
    Default,
    /// An object that is replaced as a whole.
    Replace,
    /// A list of scalars that is a set.
    MergeSet,
    /// A list of objects with this key.
    MergeBy(&'static str),
}

#[derive(Debug)]
pub(crate) struct Table {
    messages: Vec<Message>,
    /// (`batch/v1`, `Job`); the core group has an empty one: (`/v1`, `Pod`).
    kinds: HashMap<(&'static str, &'static str), MessageId>,
    names: HashMap<&'static str, MessageId>,
}

impl Message {
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|field| field.name.cmp(name)).ok().map(|at| &self.fields[at])
    }

    pub(crate) fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// `PodSpec`.
    pub(crate) fn short_name(&self) -> &'static str {
        self.name.rsplit_once('.').expect("message names carry their package").1
    }
}

impl Table {
    pub(crate) fn get() -> &'static Self {
        &TABLE
    }

    pub(crate) fn message(&self, id: MessageId) -> &Message {
        &self.messages[usize::from(id.0)]
    }

    /// `core.v1.PodSpec`.
    pub(crate) fn named(&self, name: &str) -> Option<&Message> {
        self.names.get(name).map(|id| self.message(*id))
    }

    /// The message of a kind. `DeleteOptions` and `Status` are known in every group.
    pub(crate) fn kind(&self, gvk: &Gvk) -> Option<&Message> {
        let Gvk { group, version, kind } = gvk;
        if let "DeleteOptions" | "Status" = kind.as_str() {
            return self.named(&format!("meta.v1.{kind}"));
        }
        let api_version = format!("{group}/{version}");
        self.kinds.get(&(api_version.as_str(), kind.as_str())).map(|id| self.message(*id))
    }

    fn parse(text: &'static str) -> Self {
        let heads = || text.lines().filter(|line| !line.starts_with([' ', '#']));
        let names: HashMap<&str, MessageId> = heads()
            .enumerate()
            .map(|(at, line)| (word(line, 0), MessageId(u16::try_from(at).expect("fewer than 65,536 messages"))))
            .collect();
        let mut table = Self { messages: Vec::with_capacity(names.len()), kinds: HashMap::new(), names };
        let mut fields = Vec::new();
        let mut lines = text.lines().filter(|line| !line.starts_with('#')).peekable();
        while let Some(head) = lines.next() {
            while let Some(line) = lines.next_if(|line| line.starts_with(' ')) {
                fields.push(parse_field(line.trim_start(), &table.names));
            }
            fields.sort_unstable_by_key(|field: &Field| field.name);
            let (name, gvk) = head.split_once(' ').unwrap_or((head, ""));
            if let Some(kind) = gvk.rsplit_once('/') {
                table.kinds.insert(kind, table.names[name]);
            }
            let message = Message { name, is_kind: !gvk.is_empty(), fields: fields.drain(..).collect() };
            table.messages.push(message);
        }
        table
    }
}

fn word(line: &str, at: usize) -> &str {
    line.split(' ').nth(at).expect("a line of the table has its columns")
}

fn parse_field(line: &'static str, names: &HashMap<&'static str, MessageId>) -> Field {
    let tag = word(line, 1);
    let (outer_tag, tag) = tag.split_once('.').unwrap_or(("0", tag));
    let type_ = word(line, 2);
    let element = type_.trim_start_matches(['[', ']', '{', '}']);
    let shape = match &type_[..type_.len() - element.len()] {
        "" => Shape::One,
        "[]" => Shape::List,
        "{}" => Shape::Map,
        "{}[]" => Shape::MapOfLists,
        other => panic!("the table knows no shape {other}"),
    };
    let mut field = Field {
        name: word(line, 0),
        tag: tag.parse().expect("tags are numbers"),
        outer_tag: outer_tag.parse().expect("tags are numbers"),
        shape,
        element: parse_element(element, names),
        is_pointer: false,
        is_required: false,
        is_wrapped: false,
        patch: Patch::default(),
    };
    for flag in line.split(' ').skip(3) {
        match flag {
            "pointer" => field.is_pointer = true,
            "required" => field.is_required = true,
            "wrapped" => field.is_wrapped = true,
            other => field.patch = parse_patch(other.strip_prefix("patch=").expect("a known flag")),
        }
    }
    field
}

fn parse_element(element: &str, names: &HashMap<&'static str, MessageId>) -> Element {
    match element {
        "string" => Element::String,
        "int32" => Element::Int32,
        "int64" => Element::Int64,
        "double" => Element::Double,
        "bool" => Element::Bool,
        "bytes" => Element::Bytes,
        "quantity" => Element::Quantity,
        "intorstring" => Element::IntOrString,
        "time" => Element::Time,
        "microtime" => Element::MicroTime,
        "raw" => Element::Raw,
        "fields" => Element::Fields,
        message => Element::Message(*names.get(message).unwrap_or_else(|| panic!("{message} is in the table"))),
    }
}

fn parse_patch(text: &'static str) -> Patch {
    let (strategies, key) = text.split_once(':').map_or((text, None), |(s, key)| (s, Some(key)));
    let mut patch = Patch::default();
    for strategy in strategies.split('+') {
        match (strategy, key) {
            ("merge", Some(key)) => patch.strategy = Strategy::MergeBy(key),
            ("merge", None) => patch.strategy = Strategy::MergeSet,
            ("replace", _) => patch.strategy = Strategy::Replace,
            ("retainKeys", _) => patch.is_retain_keys = true,
            (other, _) => panic!("the table knows no patch strategy {other}"),
        }
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_in_their_group_and_version() {
        let table = Table::get();
        assert_eq!(table.kind(&Gvk::new("", "v1", "Pod")).unwrap().name, "core.v1.Pod");
        assert_eq!(table.kind(&Gvk::new("batch", "v1", "Job")).unwrap().name, "batch.v1.Job");
        assert_eq!(table.kind(&Gvk::new("batch", "v1", "DeleteOptions")).unwrap().name, "meta.v1.DeleteOptions");
        assert!(table.kind(&Gvk::new("", "v2", "Pod")).is_none());
        assert!(table.kind(&Gvk::new("", "v1", "PodSpec")).is_none());
    }

    #[test]
    fn merge_keys_come_from_the_type_that_holds_the_list() {
        let table = Table::get();
        let pod = table.named("core.v1.PodSpec").unwrap();
        assert_eq!(pod.field("containers").unwrap().patch.strategy, Strategy::MergeBy("name"));
        assert_eq!(pod.field("tolerations").unwrap().patch.strategy, Strategy::Default);
        assert!(pod.field("volumes").unwrap().patch.is_retain_keys);
        let service = table.named("core.v1.ServiceSpec").unwrap();
        assert_eq!(service.field("ports").unwrap().patch.strategy, Strategy::MergeBy("port"));
        let metadata = table.named("meta.v1.ObjectMeta").unwrap();
        assert_eq!(metadata.field("finalizers").unwrap().patch.strategy, Strategy::MergeSet);
    }

    /// Tags within a message are what the decoder branches on.
    #[test]
    fn no_two_fields_share_a_place_on_the_wire() {
        for message in &Table::get().messages {
            let mut places: Vec<_> =
                message.fields().iter().filter(|f| f.tag != 0).map(|f| (f.outer_tag, f.tag)).collect();
            let before = places.len();
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), before, "{}", message.name);
        }
    }
}
