//! Label and field selectors: their grammar, and whether an object matches.

use crate::status::ApiError;

/// `k=v`, `k in (a,b)`, `!k`, …: all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector(Vec<LabelTerm>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct LabelTerm {
    key: String,
    test: LabelTest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum LabelTest {
    Exists,
    Absent,
    In(Vec<String>),
    /// Also true for objects without the label, as in Kubernetes.
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

/// `k=v`, `k!=v` over the fields a kind makes selectable: all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector(Vec<FieldTerm>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldTerm {
    field: String,
    equal: bool,
    value: String,
}

impl LabelSelector {
    /// # Errors
    /// 400 with what could not be understood.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut terms = Vec::new();
        for term in split_terms(text) {
            terms.push(label_term(term).ok_or_else(|| unparsable(text, term))?);
        }
        Ok(Self(terms))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value_of` looks a label up.
    pub fn matches<'a>(&self, value_of: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|term| {
            let value = value_of(&term.key);
            match &term.test {
                LabelTest::Exists => value.is_some(),
                LabelTest::Absent => value.is_none(),
                LabelTest::In(list) => value.is_some_and(|v| list.iter().any(|l| l == v)),
                LabelTest::NotIn(list) => value.is_none_or(|v| list.iter().all(|l| l != v)),
                LabelTest::Greater(than) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v > *than),
                LabelTest::Less(than) => value.and_then(|v| v.parse::<i64>().ok()).is_some_and(|v| v < *than),
            }
        })
    }
}

fn unparsable(text: &str, term: &str) -> ApiError {
    ApiError::bad_request(format!("unable to parse requirement: {term:?} in label selector {text:?}"))
}

/// Splits at commas outside parentheses; empty terms are skipped.
fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut depth, mut start) = (0_usize, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms.into_iter().map(str::trim).filter(|t| !t.is_empty()).collect()
}

fn label_term(term: &str) -> Option<LabelTerm> {
    let make = |key: &str, test| {
        let key = key.trim();
        crate::registry::names::qualified_name(key).is_none().then(|| LabelTerm { key: key.to_owned(), test })
    };
    if let Some(key) = term.strip_prefix('!') {
        return make(key, LabelTest::Absent);
    }
    if let Some(open) = term.find('(') {
        let list = term[open + 1..].strip_suffix(')')?.split(',').map(|v| v.trim().to_owned()).collect();
        let mut words = term[..open].split_whitespace();
        let (key, operator) = (words.next()?, words.next()?);
        if words.next().is_some() {
            return None;
        }
        return match operator {
            "in" => make(key, LabelTest::In(list)),
            "notin" => make(key, LabelTest::NotIn(list)),
            _ => None,
        };
    }
    if let Some((key, value)) = term.split_once("!=") {
        return make(key, LabelTest::NotIn(vec![label_value(value)?]));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return make(key, LabelTest::In(vec![label_value(value)?]));
    }
    if let Some((key, value)) = term.split_once('>') {
        return make(key, LabelTest::Greater(value.trim().parse().ok()?));
    }
    if let Some((key, value)) = term.split_once('<') {
        return make(key, LabelTest::Less(value.trim().parse().ok()?));
    }
    make(term, LabelTest::Exists)
}

fn label_value(text: &str) -> Option<String> {
    let text = text.trim();
    crate::registry::names::label_value(text).is_none().then(|| text.to_owned())
}

impl FieldSelector {
    /// # Errors
    /// 400 with what could not be understood.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let mut terms = Vec::new();
        for term in split_escaped(text) {
            if term.is_empty() {
                continue;
            }
            let (field, equal, value) = if let Some((field, value)) = term.split_once("!=") {
                (field, false, value)
            } else if let Some((field, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
                (field, true, value)
            } else {
                let why = format!("invalid selector: {text:?}; can't understand {term:?}");
                return Err(ApiError::bad_request(why));
            };
            terms.push(FieldTerm { field: field.trim().to_owned(), equal, value: unescape(value) });
        }
        Ok(Self(terms))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fields it names.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|t| t.field.as_str())
    }

    /// The value that `field` must have, when it is pinned to one.
    #[must_use]
    pub fn pinned(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|t| t.equal && t.field == field).map(|t| t.value.as_str())
    }

    /// `value_of` looks a field up; an unknown one counts as empty.
    pub fn matches<'a>(&self, value_of: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|t| (value_of(&t.field).unwrap_or_default() == t.value) == t.equal)
    }
}

/// Splits at commas that are not escaped with a backslash.
fn split_escaped(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(selector: &str, labels: &[(&str, &str)]) -> bool {
        let selector = LabelSelector::parse(selector).unwrap();
        selector.matches(|key| labels.iter().find(|(k, _)| *k == key).map(|(_, v)| *v))
    }

    #[test]
    fn label_selectors() {
        let web = [("app", "web"), ("tier", "1")];
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier=1", true),
            ("app=web, tier=2", false),
            ("app!=web", false),
            ("other!=x", true),
            ("app in (web, db)", true),
            ("app notin (web,db)", false),
            ("other notin (a)", true),
            ("app", true),
            ("!app", false),
            ("!other", true),
            ("tier>0", true),
            ("tier<1", false),
            ("app=", false),
        ] {
            assert_eq!(labels(selector, &web), expected, "{selector}");
        }
        for wrong in ["app in web", "a b", "app=a b", "=x", "app like (a)"] {
            assert_eq!(LabelSelector::parse(wrong).unwrap_err().code, 400, "{wrong}");
        }
    }

    #[test]
    fn field_selectors() {
        let selector = FieldSelector::parse("spec.nodeName=n1,status.phase!=Failed,x=a\\,b").unwrap();
        assert_eq!(selector.pinned("spec.nodeName"), Some("n1"));
        let matches = |phase: &'static str| {
            selector.matches(|field| match field {
                "spec.nodeName" => Some("n1"),
                "status.phase" => Some(phase),
                "x" => Some("a,b"),
                _ => None,
            })
        };
        assert!(matches("Running"));
        assert!(!matches("Failed"));
        assert_eq!(FieldSelector::parse("nonsense").unwrap_err().code, 400);
    }
}
