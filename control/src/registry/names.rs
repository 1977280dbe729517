//! Name rules of Kubernetes: `None` when the text is fine, else the reason in Kubernetes' words.
//!
//! The words matter: kubectl prints them and people search for them. Each function names the upstream rule it repeats.

/// RFC 1123 subdomain, at most 253 characters: the rule of most object names.
#[must_use]
pub fn dns1123_subdomain(name: &str) -> Option<String> {
    if name.len() > 253 {
        return Some(too_long(253));
    }
    let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
                   and must start and end with an alphanumeric character";
    let pattern = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
    let fine = name.split('.').all(is_dns_label);
    (!fine).then(|| explain(message, pattern, &["example.com"]))
}

/// RFC 1123 label, at most 63 characters: namespaces, containers, volumes.
#[must_use]
pub fn dns1123_label(name: &str) -> Option<String> {
    if name.len() > 63 {
        return Some(too_long(63));
    }
    let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
                   and must start and end with an alphanumeric character";
    (!is_dns_label(name)).then(|| explain(message, "[a-z0-9]([-a-z0-9]*[a-z0-9])?", &["my-name", "123-abc"]))
}

/// RFC 1035 label, at most 63 characters: Services.
#[must_use]
pub fn dns1035_label(name: &str) -> Option<String> {
    if name.len() > 63 {
        return Some(too_long(63));
    }
    let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', \
                   start with an alphabetic character, and end with an alphanumeric character";
    let fine = is_dns_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase());
    (!fine).then(|| explain(message, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]))
}

/// A label or annotation key: `[prefix/]name`.
#[must_use]
pub fn qualified_name(key: &str) -> Option<String> {
    let name = match key.split_once('/') {
        None => key,
        Some((_, rest)) if rest.contains('/') => return Some(not_qualified()),
        Some(("", _)) => return Some("prefix part must be non-empty".to_owned()),
        Some((prefix, name)) => {
            if let Some(wrong) = dns1123_subdomain(prefix) {
                return Some(format!("prefix part {wrong}"));
            }
            name
        }
    };
    if name.is_empty() {
        Some("name part must be non-empty".to_owned())
    } else if name.len() > 63 {
        Some(format!("name part {}", too_long(63)))
    } else if is_label_text(name) {
        None
    } else {
        Some(format!("name part {}", qualified_rule()))
    }
}

/// A label value: empty or alphanumeric with `-_.` inside, at most 63 characters.
#[must_use]
pub fn label_value(value: &str) -> Option<String> {
    if value.len() > 63 {
        return Some(too_long(63));
    }
    let message = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                   and must start and end with an alphanumeric character";
    let fine = value.is_empty() || is_label_text(value);
    (!fine).then(|| explain(message, "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", &["MyValue", "my_value", "12345"]))
}

/// A key of a ConfigMap or Secret: it becomes a file name.
#[must_use]
pub fn config_key(key: &str) -> Option<String> {
    let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
    if key.len() > 253 {
        Some(too_long(253))
    } else if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        Some(explain(message, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]))
    } else if key == "." {
        Some("must not be '.'".to_owned())
    } else if key == ".." {
        Some("must not be '..'".to_owned())
    } else if key.starts_with("..") {
        Some("must not start with '..'".to_owned())
    } else {
        None
    }
}

/// An environment variable's name, by the rule since 1.32: any printable ASCII but `=`.
#[must_use]
pub fn env_name(name: &str) -> Option<String> {
    let message = "a valid environment variable name must consist only of printable ASCII characters other than '='";
    let fine = !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    (!fine).then(|| explain(message, "[ -<>-~]+", &[]))
}

/// A container port's name (IANA service name).
#[must_use]
pub fn port_name(name: &str) -> Option<String> {
    let wrong = if name.len() > 15 {
        return Some(too_long(15));
    } else if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)"
    } else if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        "must contain at least one letter (a-z)"
    } else if name.contains("--") {
        "must not contain consecutive hyphens"
    } else if name.starts_with('-') || name.ends_with('-') {
        "must not begin or end with a hyphen"
    } else {
        return None;
    };
    Some(wrong.to_owned())
}

/// A name that is safe as one URL path segment: RBAC objects, and anything else with free names.
#[must_use]
pub fn path_segment(name: &str) -> Option<String> {
    if name == "." || name == ".." {
        return Some(format!("may not be '{name}'"));
    }
    ['/', '%'].into_iter().find(|c| name.contains(*c)).map(|c| format!("may not contain '{c}'"))
}

fn is_dns_label(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_label_text(text: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && text.starts_with(ends)
        && text.ends_with(ends)
}

fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

fn qualified_rule() -> String {
    let message = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
                   an alphanumeric character";
    explain(message, "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]", &["MyName", "my.name", "123-abc"])
}

fn not_qualified() -> String {
    let tail = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
    format!("a qualified name {} {tail}", qualified_rule())
}

/// Upstream's `RegexError`, its odd spacing included.
fn explain(message: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{pattern}')");
    }
    let shown = examples.iter().map(|e| format!("'{e}', ")).collect::<Vec<_>>().join(" or ");
    format!("{message} (e.g. {shown}regex used for validation is '{pattern}')")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rule() {
        type Rule = fn(&str) -> Option<String>;
        let table: [(Rule, &[&str], &[&str]); 8] = [
            (dns1123_subdomain, &["a", "a.b-c.d", "0"], &["", "A", "a..b", "-a", "a.", "a_b"]),
            (dns1123_label, &["a", "0-9"], &["a.b", "", "a-", "ü"]),
            (dns1035_label, &["a-1"], &["1a", "a.b"]),
            (qualified_name, &["app", "example.com/My.Name", "a_b"], &["", "/a", "a/", "a/b/c", "X/a", "-a", "a b"]),
            (label_value, &["", "a", "A_b.c"], &["-a", "a b", "a/b"]),
            (config_key, &["a", ".a", "A_b.c-d"], &["", ".", "..", "..a", "a/b"]),
            (env_name, &["A", "a.b-c", "1"], &["", "A=B", "ä"]),
            (port_name, &["http", "a-1"], &["1", "a--b", "-a", "HTTP", "sixteen-letters-"]),
        ];
        for (rule, fine, wrong) in table {
            for name in fine {
                assert_eq!(rule(name), None, "{name:?}");
            }
            for name in wrong {
                assert!(rule(name).is_some(), "{name:?} must be refused");
            }
        }
    }

    #[test]
    fn lengths_are_limited() {
        assert_eq!(dns1123_label(&"a".repeat(63)), None);
        assert_eq!(dns1123_label(&"a".repeat(64)).unwrap(), "must be no more than 63 characters");
        assert!(dns1123_subdomain(&"a".repeat(254)).is_some());
    }

    #[test]
    fn the_reason_is_told_in_the_words_of_kubernetes() {
        expect_test::expect![[r"
            a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"]]
        .assert_eq(&dns1123_label("A").unwrap());
    }
}
