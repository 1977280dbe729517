//! The operator's settings of authentication: `--auth-token`, `--auth-token-ttl`, `--bcrypt-cost`.

use std::path::PathBuf;
use std::time::Duration;

use super::jwt::SignMethod;

/// How a member makes tokens and stores passwords.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthOptions {
    pub token: TokenProvider,
    /// How long a simple token lives after its last use.
    pub token_ttl: Duration,
    /// The work in hashing a password: 2 to its power rounds.
    pub bcrypt_cost: u32,
}

impl Default for AuthOptions {
    fn default() -> Self {
        Self { token: TokenProvider::Simple, token_ttl: Duration::from_secs(300), bcrypt_cost: BCRYPT_COST }
    }
}

const BCRYPT_COST: u32 = 10;
const JWT_TTL: Duration = Duration::from_secs(300);

/// The kind of tokens that Authenticate hands out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenProvider {
    /// Random letters, known to every member through the log.
    Simple,
    /// Signed, known to nobody.
    Jwt(JwtOptions),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtOptions {
    pub method: SignMethod,
    pub pub_key: Option<PathBuf>,
    pub priv_key: Option<PathBuf>,
    pub ttl: Duration,
}

/// What is wrong with a setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{flag}: {reason}")]
pub struct AuthOptionsError {
    pub flag: &'static str,
    pub reason: String,
}

impl AuthOptions {
    /// From the flags' values: `simple` or `jwt,pub-key=…,priv-key=…,sign-method=…,ttl=…`, seconds, and the cost. A cost
    /// out of bounds becomes the default with a warning, as in etcd.
    ///
    /// # Errors
    /// When `--auth-token` is not understood.
    pub fn parse(token: &str, token_ttl_s: u64, bcrypt_cost: u32) -> Result<Self, AuthOptionsError> {
        let bcrypt_cost = if (4..=31).contains(&bcrypt_cost) {
            bcrypt_cost
        } else {
            tracing::warn!(given = bcrypt_cost, used = BCRYPT_COST, "--bcrypt-cost is not within 4 and 31");
            BCRYPT_COST
        };
        let token_ttl = if token_ttl_s == 0 { Self::default().token_ttl } else { Duration::from_secs(token_ttl_s) };
        Ok(Self { token: TokenProvider::parse(token)?, token_ttl, bcrypt_cost })
    }
}

fn wrong(reason: impl Into<String>) -> AuthOptionsError {
    AuthOptionsError { flag: "--auth-token", reason: reason.into() }
}

impl TokenProvider {
    /// # Errors
    /// When the text is neither `simple` nor a complete `jwt,…`.
    pub fn parse(text: &str) -> Result<Self, AuthOptionsError> {
        let mut parts = text.split(',');
        match parts.next() {
            Some("simple") if text == "simple" => Ok(Self::Simple),
            Some("jwt") => JwtOptions::parse(parts).map(Self::Jwt),
            _ => Err(wrong(format!("`{text}` is neither `simple` nor `jwt,sign-method=…,priv-key=…`"))),
        }
    }
}

impl JwtOptions {
    fn parse<'a>(parts: impl Iterator<Item = &'a str>) -> Result<Self, AuthOptionsError> {
        let (mut method, mut pub_key, mut priv_key, mut ttl) = (None, None, None, None);
        for part in parts {
            let (name, value) =
                part.split_once('=').ok_or_else(|| wrong(format!("`{part}` is not of the form name=value")))?;
            let place = match name {
                "sign-method" => &mut method,
                "pub-key" => &mut pub_key,
                "priv-key" => &mut priv_key,
                "ttl" => &mut ttl,
                _ => {
                    tracing::warn!(option = name, "--auth-token: an unknown option of jwt is ignored");
                    continue;
                }
            };
            if place.replace(value).is_some() {
                return Err(wrong(format!("`{name}` is given twice")));
            }
        }
        let method = method.ok_or_else(|| wrong("jwt needs sign-method=…"))?;
        let method = SignMethod::named(method).ok_or_else(|| wrong(format!("unknown sign-method `{method}`")))?;
        let ttl = match ttl {
            None | Some("") => JWT_TTL,
            Some(text) => duration(text).ok_or_else(|| wrong(format!("ttl `{text}` is not a duration such as 5m")))?,
        };
        let path = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(PathBuf::from);
        Ok(Self { method, pub_key: path(pub_key), priv_key: path(priv_key), ttl })
    }
}

/// A duration in Go's form: `1h2m3.5s`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let (scale, unit) =
            [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)]
                .iter()
                .filter(|(unit, _)| after.starts_with(unit))
                .map(|(unit, scale)| (*scale, unit.len()))
                .max_by_key(|(_, unit)| *unit)?;
        seconds += number.parse::<f64>().ok()? * scale;
        rest = &after[unit..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(seconds).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        assert_eq!(TokenProvider::parse(text).unwrap_err().to_string(), expected, "{text}");
    }

    #[test]
    fn the_flag_is_simple_or_a_complete_jwt() {
        assert_eq!(TokenProvider::parse("simple"), Ok(TokenProvider::Simple));
        let jwt = TokenProvider::parse("jwt,pub-key=/k/a.pub,priv-key=/k/a,sign-method=RS256,ttl=1h2m3.5s");
        let options = JwtOptions {
            method: SignMethod::Rs256,
            pub_key: Some("/k/a.pub".into()),
            priv_key: Some("/k/a".into()),
            ttl: Duration::from_millis(3_723_500),
        };
        assert_eq!(jwt, Ok(TokenProvider::Jwt(options)));
        let TokenProvider::Jwt(plain) = TokenProvider::parse("jwt,sign-method=HS256,priv-key=s,colour=red").unwrap()
        else {
            panic!("a jwt")
        };
        assert_eq!(plain.ttl, JWT_TTL);
    }

    #[test]
    fn mistakes_name_the_flag() {
        refused("", "--auth-token: `` is neither `simple` nor `jwt,sign-method=…,priv-key=…`");
        refused("simple,x=y", "--auth-token: `simple,x=y` is neither `simple` nor `jwt,sign-method=…,priv-key=…`");
        refused("jwt", "--auth-token: jwt needs sign-method=…");
        refused("jwt,sign-method=ES512", "--auth-token: unknown sign-method `ES512`");
        refused("jwt,sign-method", "--auth-token: `sign-method` is not of the form name=value");
        refused("jwt,ttl=1m,ttl=2m", "--auth-token: `ttl` is given twice");
        refused("jwt,sign-method=HS256,ttl=soon", "--auth-token: ttl `soon` is not a duration such as 5m");
    }

    #[test]
    fn a_cost_out_of_bounds_becomes_the_default() {
        for (given, used) in [(3, 10), (4, 4), (31, 31), (32, 10)] {
            assert_eq!(AuthOptions::parse("simple", 300, given).unwrap().bcrypt_cost, used);
        }
        assert_eq!(AuthOptions::parse("simple", 300, 10), Ok(AuthOptions::default()));
        assert_eq!(AuthOptions::parse("simple", 7, 10).unwrap().token_ttl, Duration::from_secs(7));
    }
}
