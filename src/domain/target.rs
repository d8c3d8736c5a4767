//! Where a component is, as the settings say it: text that may refer to variables of the hub, for credentials.
//!
//! `redis://:${env:CENTRAL_HUB_PROBE_CACHE_PASSWORD}@cache:6379`. The prefix keeps every other variable of the hub out
//! of reach of those who may write its settings. A target is taken only if it can be read as what its kind needs, and then
//! each place of it that may hold a credential is looked at: whatever stands there in clear is refused.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use percent_encoding::percent_decode_str;
use serde::{Serialize, Serializer};
use url::Url;

use super::infra::Kind;
use super::secrets;

/// What the names of variables that a target may refer to begin with.
pub const VARIABLE_PREFIX: &str = "CENTRAL_HUB_PROBE_";

/// The longest target, in bytes.
const MAX_LEN: usize = 1_000;

/// A component's target, as written.
#[derive(Clone, PartialEq, Eq)]
pub struct Target(String);

/// A target that breaks a rule. The message states the rule, never the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// It isn't written as its kind needs it.
    #[error("{0}")]
    Form(String),
    /// A credential stands in it in clear.
    #[error("{0}; refer to a variable: ${{env:CENTRAL_HUB_PROBE_…}}")]
    Credential(&'static str),
}

/// A variable that a target refers to isn't set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not set in the hub's environment")]
pub struct Unset(pub String);

/// Stands for a reference where a target is read: a digit can be any part of it.
const ANYTHING: char = '1';

/// Stands for a reference where credentials are looked for: no target has it.
const REFERENCE: &str = "\u{1}";

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
        let bad = |rule: &str| BadTarget::Form(rule.to_owned());
        // One that is a reference as a whole can be anything; the probe will see.
        let whole = is_reference(text);
        if !whole && !text.contains(REFERENCE) {
            // First: what can't be read may hold a credential all the same.
            shows_no_credential(kind, text)?;
        }
        if text.is_empty() || text.len() > MAX_LEN || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(bad("a target is 1 to 1000 bytes without spaces"));
        }
        let references = references(text).map_err(bad)?;
        if !whole && !is_well_formed(kind, &with(ANYTHING, text, &references)) {
            return Err(BadTarget::Form(format!("a target of this kind is {}", kind.form())));
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

    /// The schemes that a target of this kind may begin with.
    fn schemes(self) -> &'static [&'static str] {
        match self {
            Self::Postgresql => &["postgresql", "postgres"],
            Self::Nats => &["nats", "tls"],
            Self::Kafka => &["kafka", "kafka+ssl"],
            Self::Clickhouse | Self::Http => &["http", "https"],
            Self::Redis => &["redis", "rediss"],
            Self::Tcp => &["tcp"],
        }
    }
}

/// A target in parts, `scheme://user@hosts` and the rest, whether it is well formed or not: split where readers of URLs do.
struct Parts<'a> {
    scheme: Option<&'a str>,
    user: Option<&'a str>,
    hosts: &'a str,
    rest: &'a str,
}

impl<'a> Parts<'a> {
    fn of(text: &'a str) -> Self {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text),
        };
        let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        Self { scheme, user, hosts, rest }
    }
}

/// The URLs of a target: NATS takes several.
fn urls(kind: Kind, text: &str) -> Vec<&str> {
    if kind == Kind::Nats { text.split(',').collect() } else { vec![text] }
}

/// Whether it is a target of this kind; it holds no reference any more.
fn is_well_formed(kind: Kind, text: &str) -> bool {
    let words = |c: char| c.is_whitespace() || c.is_control() || c == '\\' || c == '#';
    !text.contains(words) && urls(kind, text).into_iter().all(|url| is_well_formed_url(kind, url))
}

fn is_well_formed_url(kind: Kind, url: &str) -> bool {
    let Parts { scheme, user, hosts, rest } = Parts::of(url);
    let bare = [Kind::Kafka, Kind::Tcp].contains(&kind);
    let scheme_fits = scheme.map_or(bare, |scheme| kind.schemes().contains(&scheme));
    let user_fits = user.is_none_or(|user| match kind {
        Kind::Tcp => false,
        Kind::Kafka => user.contains(':'),
        _ => true,
    });
    let rest_fits = !bare || rest.is_empty() || rest == "/";
    // PostgreSQL may be asked through a socket, whose folder stands in the query.
    let socket = kind == Kind::Postgresql && hosts.is_empty() && user.is_none() && !rest.is_empty();
    let several = [Kind::Kafka, Kind::Postgresql].contains(&kind);
    let hosts: Vec<&str> = if several { hosts.split(',').collect() } else { vec![hosts] };
    let ports: Option<Vec<bool>> = hosts.into_iter().map(has_port).collect();
    // Of brokers without a scheme, one with a port tells that hosts are meant.
    let needs_port = kind == Kind::Tcp || scheme.is_none();
    let hosts_fit = socket || ports.is_some_and(|ports| !needs_port || ports.contains(&true));
    // Where a library reads it as a URL, the library has the last word.
    let is_url = bare || kind == Kind::Postgresql || Url::parse(url).is_ok_and(|url| url.has_host());
    scheme_fits && user_fits && rest_fits && hosts_fit && is_url
}

/// Whether an address has a port; `None` when it is no `host`, `host:port`, `[address]` or `[address]:port`.
fn has_port(address: &str) -> Option<bool> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let is_host = |c: char| c.is_alphanumeric() || "._-".contains(c) || address.starts_with('[');
    if host.is_empty() || !host.chars().all(is_host) {
        return None;
    }
    // Four numbers are an address, or nothing.
    let numbers = host.chars().all(|c| c.is_ascii_digit() || c == '.') && host.contains('.');
    if numbers && host.parse::<std::net::Ipv4Addr>().is_err() {
        return None;
    }
    match port {
        None => Some(false),
        Some(port) => {
            let number = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse::<u16>().ok()).flatten()?;
            (number > 0).then_some(true)
        }
    }
}

/// Checks each place of a target that may hold a credential, whether it is well formed or not: what can't be read is told
/// to its writer as what it is, and goes nowhere.
fn shows_no_credential(kind: Kind, text: &str) -> Result<(), BadTarget> {
    const USER: &str = "a password or token stands before the host";
    const FIELD: &str = "a field has a name that tells of a credential";
    const VALUE: &str = "it holds what has the form of a credential";
    // A colon or a slash in a reference separates nothing.
    let text = with('\u{1}', text, &references(text).unwrap_or_default());
    // Some readers take a backslash for a slash.
    let text = text.replace('\\', "/");
    for url in urls(kind, &text) {
        let Parts { scheme, user, hosts, rest } = Parts::of(url);
        // Some overlook slashes that are too many or too few.
        let hidden = (hosts.is_empty() || scheme.is_none()) && rest.contains('@');
        if hidden || user.is_some_and(|user| !refers(kind, user)) {
            return Err(BadTarget::Credential(USER));
        }
    }
    let field = |field: &str| {
        let (name, value) = field.split_once('=').unwrap_or_default();
        names_a_credential(&decoded(name)) && !value.is_empty() && value != REFERENCE
    };
    if text.split(|c: char| "?&;/#,".contains(c) || c.is_whitespace()).any(field) {
        return Err(BadTarget::Credential(FIELD));
    }
    let text = text.replace(REFERENCE, "");
    if secrets::has_a_form(&text) || secrets::has_a_form(&decoded(&text)) {
        return Err(BadTarget::Credential(VALUE));
    }
    Ok(())
}

/// Whether a user part, with its references marked, shows nothing: what is secret in it is a reference.
fn refers(kind: Kind, user: &str) -> bool {
    match user.split_once(':') {
        // Over HTTP a token is often sent as a user without a password.
        Some((name, "")) => kind != Kind::Http || name.is_empty() || name == REFERENCE,
        Some((_, password)) => password == REFERENCE,
        // PostgreSQL has users without a password. Elsewhere it is the credential itself.
        None if kind == Kind::Postgresql => !decoded(user).contains(':'),
        None => user.is_empty() || user == REFERENCE,
    }
}

/// Whether a field's name ends in a word for a credential. Stricter than what keys of configs are held against: a target
/// that is refused for nothing can refer to a variable.
fn names_a_credential(name: &str) -> bool {
    const ENDINGS: [&str; 12] = [
        "password",
        "passwd",
        "passphrase",
        "passcode",
        "pwd",
        "secret",
        "token",
        "credential",
        "credentials",
        "apikey",
        "accesskey",
        "signature",
    ];
    const WORDS: [&str; 8] = ["sig", "pass", "pw", "key", "auth", "authorization", "jwt", "sas"];
    let letters: String = name.chars().filter(|c| c.is_alphabetic()).flat_map(char::to_lowercase).collect();
    secrets::names_a_secret(name)
        || ENDINGS.iter().any(|ending| letters.ends_with(ending))
        || WORDS.contains(&letters.as_str())
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

/// The text with this in place of each reference.
fn with(placeholder: char, text: &str, references: &[Reference<'_>]) -> String {
    let (mut replaced, mut done) = (String::new(), 0);
    for reference in references {
        replaced.push_str(text.get(done..reference.at.start).unwrap_or_default());
        replaced.push(placeholder);
        done = reference.at.end;
    }
    replaced.push_str(text.get(done..).unwrap_or_default());
    replaced
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
mod tests;
