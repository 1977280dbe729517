//! `$(NAME)` in commands, arguments and values.
//!
//! The rules are Kubernetes': a known name is replaced, an unknown one stays as written, `$$` is one dollar sign and so hides
//! what follows it, an unclosed `$(` stays, and what was put in is not looked at again. No shell is involved.

/// `text` with every `$(NAME)` that `lookup` knows replaced.
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let lookup = |name: &str| match name {
            "A" => Some("alpha"),
            "NESTED" => Some("$(A)"),
            "EMPTY" => Some(""),
            _ => None,
        };
        assert_eq!(expand(text, lookup), expected, "{text}");
    }

    #[test]
    fn known_names_are_replaced_once() {
        check("$(A)-$(A)", "alpha-alpha");
        check("$(NESTED)", "$(A)");
        check("x$(EMPTY)y", "xy");
        check("$A ${A}", "$A ${A}");
    }

    #[test]
    fn what_is_unknown_or_unclosed_stays() {
        check("$(B)", "$(B)");
        check("$(A", "$(A");
        check("cost: 5$", "cost: 5$");
        check("$()", "$()");
        check("$(A $(A)", "$(A $(A)");
    }

    #[test]
    fn two_dollars_are_one_and_hide_the_name() {
        check("$$(A)", "$(A)");
        check("$$$(A)", "$alpha");
        check("$$$$(A)", "$$(A)");
    }
}
