//! Where a component is, as the settings say it: text that may refer to variables of the hub, for credentials.
//!
//! `redis://:${env:CENTRAL_HUB_PROBE_CACHE_PASSWORD}@cache:6379`. The prefix keeps every other variable of the hub out
//! of reach of those who may write its settings. A password in clear never gets this far: the secret guard refuses it.

use std::fmt;
use std::ops::Range;

use serde::{Serialize, Serializer};

use super::infra::Kind;

/// What the names of variables that a target may refer to begin with.
pub const VARIABLE_PREFIX: &str = "CENTRAL_HUB_PROBE_";

/// The longest target, in bytes.
const MAX_LEN: usize = 1_000;

/// A component's target, as written.
#[derive(Clone, PartialEq, Eq)]
pub struct Target(String);

/// A target that breaks a rule. The message states the rule, never the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadTarget(String);

/// A variable that a target refers to isn't set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not set in the hub's environment")]
pub struct Unset(pub String);

/// A reference in a text: where it stands, and the variable.
struct Reference<'a> {
    at: Range<usize>,
    variable: &'a str,
}

impl Target {
    /// Checks a target of a component of this kind.
    ///
    /// # Errors
    /// The rule that it breaks.
    pub fn new(kind: Kind, text: &str) -> Result<Self, BadTarget> {
        let bad = |rule: &str| BadTarget(rule.to_owned());
        if text.is_empty() || text.len() > MAX_LEN || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(bad("a target is 1 to 1000 bytes without spaces"));
        }
        let references = references(text).map_err(bad)?;
        // One that begins with a reference can be anything; the probe will see.
        if references.first().is_none_or(|reference| reference.at.start > 0) && !kind.takes(text) {
            return Err(BadTarget(format!("a target of this kind is {}", kind.form())));
        }
        if kind == Kind::Nats {
            for address in text.split(',') {
                let user = user_part(address).and_then(|part| address.get(part)).unwrap_or_default();
                if !user.is_empty() && !user.contains(':') && !is_reference(user) {
                    return Err(bad(
                        "the user part of a NATS address without a password is a token: refer to a variable",
                    ));
                }
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// The variables that it refers to.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        references(&self.0).unwrap_or_default().into_iter().map(|reference| reference.variable)
    }

    /// The target with the variables' values in their places. In the user part and in the query of a URL they are
    /// percent-encoded, so a password may hold any character; elsewhere they stand as they are.
    ///
    /// # Errors
    /// The first variable that `value_of` doesn't know.
    pub fn resolve(&self, value_of: impl Fn(&str) -> Option<String>) -> Result<String, Unset> {
        let text = self.0.as_str();
        let users: Vec<Range<usize>> = addresses(text)
            .filter_map(|(at, address)| user_part(address).map(|part| at + part.start..at + part.end))
            .collect();
        let query = text.find('?').unwrap_or(text.len());
        let (mut resolved, mut done) = (String::new(), 0);
        for Reference { at, variable } in references(text).unwrap_or_default() {
            let value = value_of(variable).ok_or_else(|| Unset(variable.to_owned()))?;
            resolved.push_str(text.get(done..at.start).unwrap_or_default());
            if at.start > query || users.iter().any(|user| user.contains(&at.start)) {
                resolved.push_str(&percent_encoded(&value));
            } else {
                resolved.push_str(&value);
            }
            done = at.end;
        }
        resolved.push_str(text.get(done..).unwrap_or_default());
        Ok(resolved)
    }
}

/// It may hold what a person would rather not see in a log.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Target")
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl Kind {
    /// How a target of this kind is written.
    #[must_use]
    pub fn form(self) -> &'static str {
        match self {
            Self::Postgresql => "postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
            Self::Nats => "nats://HOST:PORT or tls://HOST:PORT, several separated by commas",
            Self::Kafka => {
                "HOST:PORT, several separated by commas; before them kafka:// or kafka+ssl:// and USER:PASSWORD@"
            }
            Self::Clickhouse => "http://HOST:8123 or https://HOST:8443",
            Self::Redis => "redis://HOST:PORT or rediss://HOST:PORT",
            Self::Http => "http://… or https://…",
            Self::Tcp => "HOST:PORT",
        }
    }

    fn takes(self, text: &str) -> bool {
        let scheme = |text: &str, schemes: &[&str]| {
            text.split_once("://").is_some_and(|(scheme, rest)| schemes.contains(&scheme) && !rest.is_empty())
        };
        let plain = |text: &str| !text.contains("://") && text.contains(':');
        match self {
            Self::Postgresql => scheme(text, &["postgresql", "postgres"]),
            Self::Nats => text.split(',').all(|address| scheme(address, &["nats", "tls"])),
            Self::Kafka => scheme(text, &["kafka", "kafka+ssl"]) || plain(text),
            Self::Clickhouse | Self::Http => scheme(text, &["http", "https"]),
            Self::Redis => scheme(text, &["redis", "rediss"]),
            Self::Tcp => scheme(text, &["tcp"]) || plain(text),
        }
    }
}

/// The references in a text, in order.
fn references(text: &str) -> Result<Vec<Reference<'_>>, &'static str> {
    const RULE: &str = "a reference is ${env:CENTRAL_HUB_PROBE_…}; no other variable of the hub can be named";
    let (mut found, mut from) = (Vec::new(), 0);
    while let Some(start) = text.get(from..).and_then(|rest| rest.find("${")).map(|at| from + at) {
        let rest = text.get(start..).unwrap_or_default();
        let variable = rest.strip_prefix("${env:").and_then(|rest| rest.split_once('}')).ok_or(RULE)?.0;
        let suffix = variable.strip_prefix(VARIABLE_PREFIX).ok_or(RULE)?;
        if suffix.is_empty() || !suffix.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(RULE);
        }
        from = start + "${env:}".len() + variable.len();
        found.push(Reference { at: start..from, variable });
    }
    Ok(found)
}

fn is_reference(text: &str) -> bool {
    references(text).is_ok_and(|found| found.len() == 1 && found.first().is_some_and(|only| only.at == (0..text.len())))
}

/// The addresses of a list that commas separate, each with where it begins. A comma in a user part doesn't exist: it is
/// percent-encoded there.
fn addresses(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split(',').scan(0, |begin, address| {
        let at = *begin;
        *begin += address.len() + 1;
        Some((at, address))
    })
}

/// Where the user part (`user:password`) of a URL stands.
pub fn user_part(url: &str) -> Option<Range<usize>> {
    let start = url.find("://")? + "://".len();
    let rest = url.get(start..)?;
    let authority = rest.get(..rest.find(['/', '?', '#']).unwrap_or(rest.len()))?;
    Some(start..start + authority.rfind('@')?)
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn percent_encoded(value: &str) -> String {
    value.bytes().fold(String::new(), |mut encoded, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
        encoded
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resolved(kind: Kind, text: &str, value: &str) -> String {
        Target::new(kind, text).unwrap().resolve(|_| Some(value.to_owned())).unwrap()
    }

    #[test]
    fn forms_of_each_kind() {
        for (kind, good, bad) in [
            (
                Kind::Postgresql,
                &["postgresql://db/x", "postgres://u:${env:CENTRAL_HUB_PROBE_P}@db:5432/x?sslmode=require"][..],
                &["db:5432", "mysql://db", "host=db password=x", "postgresql://"][..],
            ),
            (
                Kind::Nats,
                &["nats://a:4222", "nats://a,tls://b:4222", "nats://${env:CENTRAL_HUB_PROBE_T}@a", "nats://u:p@a"],
                &["a:4222", "nats://a,b", "http://a", "nats://token@a", "nats://a,nats://token@b"],
            ),
            (
                Kind::Kafka,
                &["a:9092", "a:9092,b:9092", "kafka://a:9092,b", "kafka+ssl://u:${env:CENTRAL_HUB_PROBE_P}@a:9093"],
                &["a", "http://a:9092", "kafka://"],
            ),
            (Kind::Clickhouse, &["http://a:8123", "https://a/?database=x"], &["a:8123", "clickhouse://a"]),
            (Kind::Redis, &["redis://a", "rediss://:${env:CENTRAL_HUB_PROBE_P}@a:6379/1"], &["a:6379", "http://a"]),
            (Kind::Http, &["http://a/health", "https://a"], &["a", "ftp://a", "file:///etc/passwd", "HTTP//a"]),
            (Kind::Tcp, &["a:22", "[::1]:22", "tcp://a:22"], &["a", "http://a:22"]),
        ] {
            for text in good {
                assert!(Target::new(kind, text).is_ok(), "{kind} {text}");
            }
            for text in bad.iter().chain(&["", " ", "a:1 b:2", "a:\n1", &"a".repeat(1_001)]) {
                assert!(Target::new(kind, text).is_err(), "{kind} {text}");
            }
            assert!(Target::new(kind, "${env:CENTRAL_HUB_PROBE_ALL}").is_ok(), "a whole target may come from outside");
        }
    }

    #[test]
    fn only_variables_made_for_probes_can_be_named() {
        for name in ["CENTRAL_HUB_PROBE_A", "CENTRAL_HUB_PROBE_a_1"] {
            let target = Target::new(Kind::Http, &format!("http://a/${{env:{name}}}")).unwrap();
            assert_eq!(target.variables().collect::<Vec<_>>(), [name]);
        }
        for reference in [
            "${env:CENTRAL_HUB_DB_PASSWORD}",
            "${env:CENTRAL_HUB_PROBE_}",
            "${env:central_hub_probe_A}",
            "${env:HOME}",
            "${env:CENTRAL_HUB_PROBE_A",
            "${env:CENTRAL_HUB_PROBE_A-B}",
            "${env:CENTRAL_HUB_PROBE_A}${env:HOME}",
            "${file:/etc/passwd}",
            "${CENTRAL_HUB_PROBE_A}",
            "${",
        ] {
            assert!(Target::new(Kind::Http, &format!("http://a/{reference}")).is_err(), "{reference}");
        }
    }

    #[test]
    fn values_are_encoded_where_they_would_break_the_url() {
        let reference = "${env:CENTRAL_HUB_PROBE_X}";
        for (kind, text, expected) in [
            (Kind::Redis, format!("redis://:{reference}@a:1/2"), "redis://:p%40%2F%3A%3Fw@a:1/2"),
            (Kind::Kafka, format!("kafka://u:{reference}@a:1,b:2"), "kafka://u:p%40%2F%3A%3Fw@a:1,b:2"),
            (Kind::Nats, format!("nats://a,nats://{reference}@b"), "nats://a,nats://p%40%2F%3A%3Fw@b"),
            (
                Kind::Http,
                format!("http://a/x?k={reference}&l={reference}"),
                "http://a/x?k=p%40%2F%3A%3Fw&l=p%40%2F%3A%3Fw",
            ),
            (Kind::Http, format!("http://a/{reference}/x"), "http://a/p@/:?w/x"),
            (Kind::Http, reference.to_owned(), "p@/:?w"),
            (Kind::Http, "http://a/x".to_owned(), "http://a/x"),
        ] {
            assert_eq!(resolved(kind, &text, "p@/:?w"), expected);
        }
        let target = Target::new(Kind::Tcp, "a:${env:CENTRAL_HUB_PROBE_X}").unwrap();
        assert_eq!(target.resolve(|_| None), Err(Unset("CENTRAL_HUB_PROBE_X".into())));
        assert_eq!(target.resolve(|name| Some(name.len().to_string())).unwrap(), "a:19");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "\\PC{0,60}|[${}env:CENTRAL_HUB_PROBE_/@,?ä]{0,60}") {
            for kind in Kind::ALL {
                if let Ok(target) = Target::new(kind, &text) {
                    prop_assert!(target.variables().all(|name| name.starts_with(VARIABLE_PREFIX)));
                    let _ = target.resolve(|_| Some(text.clone()));
                }
            }
        }

        #[test]
        fn a_password_comes_out_as_it_went_in(password in "\\PC{1,40}") {
            let url = resolved(Kind::Redis, "redis://u:${env:CENTRAL_HUB_PROBE_X}@a", &password);
            let encoded = url.get("redis://u:".len()..url.len() - "@a".len()).unwrap();
            prop_assert!(encoded.is_ascii() && !encoded.contains(['@', '/', ':', '?', '#']));
        }
    }
}
