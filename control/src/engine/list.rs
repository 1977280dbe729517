//! What a list or watch asks for: its options, their contradictions, and the tokens of paged lists.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::selector::{FieldSelector, LabelSelector};
use crate::registry::Kind;
use crate::status::ApiError;

/// Which state a list or the start of a watch may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// The state as of now.
    Latest,
    /// Whatever is at hand.
    Any,
    /// This revision or a later one.
    NotOlderThan(i64),
    Exact(i64),
}

/// The query of a list, parsed.
#[derive(Clone, Debug)]
pub struct ListOptions {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    /// 0 = no limit.
    pub limit: i64,
    pub at: At,
    pub resume: Option<Continue>,
    pub label_text: String,
    pub field_text: String,
}

/// The query of a watch, parsed.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    pub labels: LabelSelector,
    pub fields: FieldSelector,
    /// `None`: start with what exists.
    pub after: Option<i64>,
    /// Which state the initial objects must show.
    pub at: At,
    pub bookmarks: bool,
    /// End the initial objects with a marked bookmark.
    pub mark_initial_end: bool,
    pub timeout_s: Option<u64>,
}

/// Where a paged list goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Continue {
    /// -1: the revision of the first page is gone and the client accepts a later state.
    pub revision: i64,
    /// Relative to the listed prefix.
    pub start: String,
}

impl Continue {
    /// The opaque text of the token, in Kubernetes' own shape.
    #[must_use]
    pub fn encode(&self) -> String {
        let token = json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": self.start});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    /// # Errors
    /// 400 for anything that [`Continue::encode`] did not make.
    pub fn decode(text: &str) -> Result<Self, ApiError> {
        let wrong = || ApiError::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text)).map_err(|_| wrong())?;
        let token: Value = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
        if token["v"] != "meta.k8s.io/v1" {
            return Err(wrong());
        }
        let revision = token["rv"].as_i64().ok_or_else(wrong)?;
        let start = token["start"].as_str().ok_or_else(wrong)?;
        if start.split('/').any(|part| part == "..") {
            return Err(wrong());
        }
        Ok(Self { revision, start: start.to_owned() })
    }
}

/// Query parameters by name; the last of several wins.
pub trait Query {
    fn param(&self, name: &str) -> Option<&str>;
}

impl Query for Vec<(String, String)> {
    fn param(&self, name: &str) -> Option<&str> {
        self.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

fn text<'a>(query: &'a impl Query, name: &str) -> &'a str {
    query.param(name).unwrap_or_default()
}

/// `true` and `1`, as Kubernetes reads booleans.
pub fn flag(query: &impl Query, name: &str) -> bool {
    matches!(query.param(name), Some("true" | "1" | ""))
}

fn number<T: std::str::FromStr>(query: &impl Query, name: &str) -> Result<Option<T>, ApiError> {
    match text(query, name) {
        "" => Ok(None),
        digits => {
            let parsed = digits.parse().map_err(|_| {
                ApiError::bad_request(format!("strconv.ParseInt: parsing {digits:?}: invalid syntax ({name})"))
            })?;
            Ok(Some(parsed))
        }
    }
}

fn selectors(kind: &Kind, query: &impl Query) -> Result<(LabelSelector, FieldSelector), ApiError> {
    let labels = LabelSelector::parse(text(query, "labelSelector"))?;
    let fields = FieldSelector::parse(text(query, "fieldSelector"))?;
    let known = kind.strategy.selectable_fields(&Value::Null);
    for field in fields.fields() {
        let common = matches!(field, "metadata.name" | "metadata.namespace");
        if !common && !known.iter().any(|(name, _)| *name == field) {
            let what = crate::status::qualified_resource(kind.group, kind.resource);
            return Err(ApiError::bad_request(format!(
                "Unable to find {what:?} that match label selector {:?}, field selector {:?}: field label not supported: \
                 {field}",
                text(query, "labelSelector"),
                text(query, "fieldSelector"),
            )));
        }
    }
    Ok((labels, fields))
}

fn invalid(field: &str, why: &str) -> ApiError {
    let message = format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: {why}");
    let mut error = ApiError::new(422, "Invalid", message);
    error.details = Some(json!({
        "group": "meta.k8s.io", "kind": "ListOptions",
        "causes": [{"reason": "FieldValueForbidden", "message": why, "field": field}],
    }));
    error
}

fn at(query: &impl Query) -> Result<At, ApiError> {
    let version: Option<i64> = number(query, "resourceVersion")?;
    let matching = text(query, "resourceVersionMatch");
    if !matching.is_empty() && version.is_none() {
        let why = "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided";
        return Err(invalid("resourceVersionMatch", why));
    }
    match (version, matching) {
        (None, _) => Ok(At::Latest),
        (Some(0), "Exact") => {
            let why = "Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            Err(invalid("resourceVersionMatch", why))
        }
        (Some(version), "Exact") => Ok(At::Exact(version)),
        (Some(0), _) => Ok(At::Any),
        (Some(version), "" | "NotOlderThan") => Ok(At::NotOlderThan(version)),
        (Some(_), other) => {
            let why = format!("Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\"");
            Err(invalid("resourceVersionMatch", &why))
        }
    }
}

impl ListOptions {
    /// # Errors
    /// 400 and 422 for what Kubernetes refuses.
    pub fn parse(kind: &Kind, query: &impl Query) -> Result<Self, ApiError> {
        let (labels, fields) = selectors(kind, query)?;
        let limit = number(query, "limit")?.unwrap_or(0).max(0);
        let resume = match text(query, "continue") {
            "" => None,
            token => Some(Continue::decode(token)?),
        };
        if resume.is_some() {
            if !text(query, "resourceVersionMatch").is_empty() {
                let why = "Forbidden: resourceVersionMatch is forbidden when continue is provided";
                return Err(invalid("resourceVersionMatch", why));
            }
            if !matches!(text(query, "resourceVersion"), "" | "0") {
                return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
            }
        }
        let at = if resume.is_some() { At::Latest } else { at(query)? };
        Ok(Self {
            labels,
            fields,
            limit,
            at,
            resume,
            label_text: text(query, "labelSelector").to_owned(),
            field_text: text(query, "fieldSelector").to_owned(),
        })
    }
}

impl WatchOptions {
    /// # Errors
    /// 400 and 422 for what Kubernetes refuses.
    pub fn parse(kind: &Kind, query: &impl Query) -> Result<Self, ApiError> {
        let (labels, fields) = selectors(kind, query)?;
        let initial = query.param("sendInitialEvents");
        let matching = text(query, "resourceVersionMatch");
        if initial.is_some_and(|v| !v.is_empty()) && matching != "NotOlderThan" {
            let why = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(invalid("resourceVersionMatch", why));
        }
        if initial.is_none() && !matching.is_empty() {
            let why = "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            return Err(invalid("resourceVersionMatch", why));
        }
        let version: Option<i64> = number(query, "resourceVersion")?;
        let wants_initial = flag(query, "sendInitialEvents") && initial.is_some();
        let (after, at) = match (version, wants_initial) {
            (None, true) => (None, At::Latest),
            (Some(0), _) | (None, false) => (None, At::Any),
            (Some(version), true) => (None, At::NotOlderThan(version)),
            (Some(version), false) => (Some(version), At::Any),
        };
        let bookmarks = flag(query, "allowWatchBookmarks") && query.param("allowWatchBookmarks").is_some();
        Ok(Self {
            labels,
            fields,
            after,
            at,
            bookmarks,
            mark_initial_end: wants_initial && bookmarks,
            timeout_s: number(query, "timeoutSeconds")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::WIDGET;
    use super::*;

    fn query(text: &str) -> Vec<(String, String)> {
        text.split('&')
            .filter(|p| !p.is_empty())
            .map(|p| p.split_once('=').unwrap_or((p, "")))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }

    #[test]
    fn a_token_survives_the_round_trip() {
        let token = Continue { revision: 42, start: "default/a\0".into() };
        assert_eq!(Continue::decode(&token.encode()).unwrap(), token);
        assert_eq!(Continue::decode("zzz").unwrap_err().code, 400);
    }

    #[test]
    fn the_state_a_list_may_show() {
        let at = |text: &str| ListOptions::parse(&WIDGET, &query(text)).map(|o| o.at).map_err(|e| e.code);
        assert_eq!(at(""), Ok(At::Latest));
        assert_eq!(at("resourceVersion=0"), Ok(At::Any));
        assert_eq!(at("resourceVersion=7"), Ok(At::NotOlderThan(7)));
        assert_eq!(at("resourceVersion=7&resourceVersionMatch=Exact"), Ok(At::Exact(7)));
        assert_eq!(at("resourceVersion=0&resourceVersionMatch=Exact"), Err(422));
        assert_eq!(at("resourceVersionMatch=Exact"), Err(422));
        assert_eq!(at("resourceVersion=x"), Err(400));
        assert_eq!(at("fieldSelector=spec.nonsense%3Dx"), Err(400));
    }

    #[test]
    fn how_a_watch_starts() {
        let start = |text: &str| {
            let options = WatchOptions::parse(&WIDGET, &query(text)).map_err(|e| e.code)?;
            Ok((options.after, options.at, options.mark_initial_end))
        };
        assert_eq!(start("resourceVersion=5"), Ok((Some(5), At::Any, false)));
        assert_eq!(start("resourceVersion=0"), Ok((None, At::Any, false)));
        let list = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
        assert_eq!(start(list), Ok((None, At::Latest, true)));
        assert_eq!(start("sendInitialEvents=true"), Err(422));
    }
}
