//! Secrets in a config: found by the key that they stand under, or by a well-known form of the value or the key.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use base64::alphabet;
use base64::engine::{DecodePaddingMode, Engine as _, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::percent_decode_str;
use regex::{Regex, RegexSet};
use serde_json::{Map, Value};

/// Words that name a secret when a key ends in one of them. So does a word that ends in one of the first four
/// (`dbpassword`): nothing else does.
const SECRET_WORDS: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "apikey",
    "pwd",
    "secret",
    "token",
    "credential",
    "credentials",
    "bearer",
    "accesskey",
    "secretkey",
    "privatekey",
    "signingkey",
    "encryptionkey",
    "clientsecret",
    "authtoken",
    "accesstoken",
    "refreshtoken",
    "bearertoken",
];

/// How many of [`SECRET_WORDS`] name a secret as the end of a longer word, too.
const SECRET_ENDINGS: usize = 4;

/// Words that name a secret when a key ends in one of them followed by `key`.
const SECRET_KEYS: &[&str] = &["api", "access", "secret", "private", "signing", "encryption"];

/// Forms of values that are secrets wherever they stand, each with what it is the form of. A word boundary at the start
/// keeps a longer word that merely ends like one out; an ASCII one, since the engine is slow with Unicode's.
const FORMS: &[&str] = &[
    // PEM private keys of all kinds: PKCS #1, #8, EC, OpenSSH, PGP. Certificates and public keys pass.
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----",
    // AWS: ids of long-term and temporary access keys.
    r"(?-u:\b)(?:AKIA|ASIA)[A-Z0-9]{16}(?-u:\b)",
    // GitHub: personal, OAuth, user-to-server, server-to-server, refresh; fine-grained.
    r"(?-u:\b)gh[pousr]_[A-Za-z0-9]{36,}",
    r"(?-u:\b)github_pat_[A-Za-z0-9_]{22,}",
    // GitLab: personal, deploy, runner, pipeline trigger, OAuth application.
    r"(?-u:\b)gl(?:pat|dt|rt|ptt|oas)-[A-Za-z0-9_-]{20,}",
    // Slack: tokens, app tokens, webhooks.
    r"(?-u:\b)xox[abeoprs]-[A-Za-z0-9-]{10,}",
    r"(?-u:\b)xapp-[0-9]-[A-Za-z0-9-]{10,}",
    r"hooks\.slack\.com/services/T[A-Za-z0-9]+/B[A-Za-z0-9]+/[A-Za-z0-9]+",
    // Stripe: secret and restricted keys, webhook secrets. Publishable keys (pk_) pass.
    r"(?-u:\b)[sr]k_(?:live|test)_[A-Za-z0-9]{16,}",
    r"(?-u:\b)whsec_[A-Za-z0-9+/=]{16,}",
    // Google: API keys, OAuth access tokens, OAuth client secrets.
    r"(?-u:\b)AIza[A-Za-z0-9_-]{35}",
    r"(?-u:\b)ya29\.[A-Za-z0-9_-]{20,}",
    r"(?-u:\b)GOCSPX-[A-Za-z0-9_-]{20,}",
    // Telegram bot tokens.
    r"(?-u:\b)[0-9]{8,10}:[A-Za-z0-9_-]{35}(?-u:\b)",
    // OpenAI-style keys, with or without an infix such as `proj-` or `ant-`. A name of several words has no word of twenty
    // letters.
    r"(?-u:\b)sk-[A-Za-z0-9_-]*[A-Za-z0-9]{20,}",
    // JSON Web Tokens: header and payload both begin with `{"`.
    r"(?-u:\b)eyJ[A-Za-z0-9_-]{4,}\.eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,}",
    // nkey seeds (NATS): S, the kind of the key, 56 base32 characters.
    r"(?-u:\b)S[ACNOUX][A-Z2-7]{56}(?-u:\b)",
    // A URL with a password before the host. (One in the query: see below.)
    r"[A-Za-z][A-Za-z0-9+.-]*://[^ \t\r\n/?#:@]*:[^ \t\r\n/?#@]+@",
    // HTTP authorization: a bearer token has a digit in it or is one long word.
    r"(?i-u:\bbearer)[ \t]+(?:[A-Za-z0-9._~+/-]*[0-9][A-Za-z0-9._~+/=-]{5,}|[A-Za-z0-9._~+/-]{7,}[0-9][A-Za-z0-9._~+/=-]*|[A-Za-z0-9+/=]{24,})",
    // Tokens of npm, PyPI, Hugging Face, SendGrid and DigitalOcean; keys in connection strings of Azure.
    r"(?-u:\b)npm_[A-Za-z0-9]{36}(?-u:\b)",
    r"(?-u:\b)pypi-AgE[A-Za-z0-9_-]{50,}",
    r"(?-u:\b)hf_[A-Za-z0-9]{34}(?-u:\b)",
    r"(?-u:\b)SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}(?-u:\b)",
    r"(?-u:\b)do[opr]_v1_[a-f0-9]{64}(?-u:\b)",
    r"(?-u:\b)(?:Account|SharedAccess)Key=[A-Za-z0-9+/]{40,}={0,2}",
];

#[allow(clippy::expect_used, reason = "the patterns are constants; a test compiles each")]
static FORM_SET: LazyLock<RegexSet> = LazyLock::new(|| RegexSet::new(FORMS).expect("constant patterns"));

/// HTTP authorization by base64 of `user:password`: what the first group holds is that, or only looks like it.
#[allow(clippy::expect_used, reason = "the pattern is a constant; a test compiles it")]
static BASIC: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?i-u:\bbasic)[ \t]+([A-Za-z0-9+/_-]{4,}={0,2})").expect("constant pattern"));

/// The query of a URL.
#[allow(clippy::expect_used, reason = "the pattern is a constant; a test compiles it")]
static QUERY: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[A-Za-z][A-Za-z0-9+.-]*://[^ \t\r\n?#]*\?([^ \t\r\n#]+)").expect("constant pattern"));

/// How the name of a field in a query ends that holds a password; letters only.
const PASSWORD_FIELDS: &[&str] = &["password", "passwd", "passphrase", "pwd"];

/// Names of fields in a query that hold a credential if their value looks random; letters only. (`page_token` isn't one.)
const CREDENTIAL_FIELDS: &[&str] = &[
    "accesstoken",
    "authtoken",
    "apitoken",
    "token",
    "apikey",
    "xapikey",
    "accesskey",
    "secretkey",
    "clientsecret",
    "secret",
    "sig",
    "signature",
    "xamzsignature",
];

/// What is random has this many characters at least. Shorter, a word and a number are as long.
const RANDOM_CHARS: usize = 8;

#[allow(clippy::expect_used, reason = "the pattern is a constant; a test compiles it")]
static REFERENCES: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\$\{env:[A-Za-z_][A-Za-z0-9_]*\}").expect("constant pattern"));

#[allow(clippy::expect_used, reason = "the pattern is a constant; a test compiles it")]
static REFERENCE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\A\$\{env:[A-Za-z_][A-Za-z0-9_]*\}\z").expect("constant pattern"));

/// JSON pointers of the secrets in `config`, in order; never the values. A key that is a secret is told by the pointer of
/// its object. What lies at or below a pointer of `allowed` (the writer's `not_secret`) passes.
#[must_use]
pub fn find(config: &Value, allowed: &BTreeSet<String>) -> Vec<String> {
    let mut finder = Finder { allowed, found: Vec::new() };
    finder.visit(config, &mut String::new(), false);
    finder.found
}

/// JSON pointers of the secrets in a JSON Schema: texts of a well-known form, and what it gives as the value of a property
/// whose name names a secret. The name itself tells nothing: a schema has a property called `password` for good reason.
#[must_use]
pub fn find_in_schema(schema: &Value) -> Vec<String> {
    let mut finder = Finder { allowed: &BTreeSet::new(), found: Vec::new() };
    finder.visit_schema(schema, &mut String::new(), false);
    finder.found
}

/// Keywords of a JSON Schema under which values stand that a config may have.
const VALUES: &[&str] = &["default", "const", "examples"];

/// Keywords of a JSON Schema under which there are schemas by name.
const BY_NAME: &[&str] = &["properties", "patternProperties", "$defs", "definitions"];

struct Finder<'a> {
    allowed: &'a BTreeSet<String>,
    found: Vec<String>,
}

impl Finder<'_> {
    /// `named` tells whether the key above names a secret; it holds through lists, not through objects.
    fn visit(&mut self, value: &Value, path: &mut String, named: bool) {
        if self.allowed.contains(path.as_str()) {
            return;
        }
        match value {
            Value::String(text) => self.look_at(text, path, named),
            Value::Array(items) => self.each(items, path, |this, item, path| this.visit(item, path, named)),
            Value::Object(members) => self.members(members, path, |this, key, member, path| {
                this.visit(member, path, names_a_secret(key));
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// `named` tells whether it is the schema of a property whose name names a secret, or a part of it.
    fn visit_schema(&mut self, schema: &Value, path: &mut String, named: bool) {
        match schema {
            Value::String(text) => self.look_at(text, path, false),
            Value::Array(items) => self.each(items, path, |this, item, path| this.visit_schema(item, path, named)),
            Value::Object(members) => self.members(members, path, |this, keyword, member, path| match member {
                _ if VALUES.contains(&keyword) => this.visit(member, path, named),
                Value::Object(schemas) if BY_NAME.contains(&keyword) => {
                    this.members(schemas, path, |this, name, schema, path| {
                        this.visit_schema(schema, path, names_a_secret(name));
                    });
                }
                _ => this.visit_schema(member, path, named),
            }),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn look_at(&mut self, text: &str, path: &str, named: bool) {
        if !text.is_empty() && !is_reference(text) && (named || has_a_form(text)) {
            self.found.push(path.to_owned());
        }
    }

    fn each(&mut self, items: &[Value], path: &mut String, mut visit: impl FnMut(&mut Self, &Value, &mut String)) {
        let length = path.len();
        for (index, item) in items.iter().enumerate() {
            path.push_str(&format!("/{index}"));
            visit(self, item, path);
            path.truncate(length);
        }
    }

    /// Visits what stands under the keys, unless a key is a secret itself: then the object is told, once, since a pointer
    /// that goes on would tell the key.
    fn members(
        &mut self,
        members: &Map<String, Value>,
        path: &mut String,
        mut visit: impl FnMut(&mut Self, &str, &Value, &mut String),
    ) {
        let length = path.len();
        let mut told = false;
        for (key, member) in members {
            path.push('/');
            path.push_str(&key.replace('~', "~0").replace('/', "~1"));
            let secret = has_a_form(key) && !self.allowed.contains(path.as_str());
            if !secret {
                visit(self, key, member, path);
            }
            path.truncate(length);
            if secret && !std::mem::replace(&mut told, true) {
                self.found.push(path.clone());
            }
        }
    }
}

/// Whether a text holds something of a well-known form. References inside it, such as the password of a URL, are none.
#[must_use]
pub fn has_a_form(text: &str) -> bool {
    let text = REFERENCES.replace_all(text, "");
    let text = text.as_ref();
    FORM_SET.is_match(text)
        || BASIC.captures_iter(text).any(|found| found.get(1).is_some_and(|encoded| is_credentials(encoded.as_str())))
        || QUERY.captures_iter(text).any(|found| found.get(1).is_some_and(|query| shows_a_credential(query.as_str())))
}

/// Whether a field of a URL's query is a password, or by its name and value another credential.
fn shows_a_credential(query: &str) -> bool {
    query.split('&').filter_map(|field| field.split_once('=')).any(|(name, value)| {
        let name = percent_decode_str(name).decode_utf8_lossy();
        let name: String = name.chars().filter(|c| c.is_alphabetic()).flat_map(char::to_lowercase).collect();
        let password = PASSWORD_FIELDS.iter().any(|ending| name.ends_with(ending));
        !value.is_empty() && (password || CREDENTIAL_FIELDS.contains(&name.as_str()) && looks_random(value))
    })
}

/// Whether a value isn't a word, a number or a placeholder.
fn looks_random(value: &str) -> bool {
    let plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%+/=".contains(&byte));
    let has = |kind: fn(&u8) -> bool| value.bytes().any(|byte| kind(&byte));
    plain && value.len() >= RANDOM_CHARS && has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic)
}

/// Whether it is base64 of `user:password`. No word of a language is: it would have to be text when decoded.
fn is_credentials(encoded: &str) -> bool {
    let Ok(decoded) = CREDENTIALS.decode(encoded.replace('-', "+").replace('_', "/")) else { return false };
    let decoded = String::from_utf8(decoded).unwrap_or_default();
    let split = decoded.split_once(':').filter(|_| !decoded.chars().any(char::is_control));
    split.is_some_and(|(_, password)| !password.is_empty())
}

/// Base64 as it is found: with padding or without.
const CREDENTIALS: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Whether a text is, as a whole, a reference that clients resolve from their own environment: `${env:NAME}`.
#[must_use]
pub fn is_reference(text: &str) -> bool {
    REFERENCE.is_match(text)
}

/// Whether a key's last words name a secret.
#[must_use]
pub fn names_a_secret(key: &str) -> bool {
    let words = words(key);
    let Some((last, before)) = words.split_last() else { return false };
    let secret_key = last == "key" && before.last().is_some_and(|word| SECRET_KEYS.contains(&word.as_str()));
    let ends_so = SECRET_WORDS.iter().take(SECRET_ENDINGS).any(|ending| last.ends_with(ending));
    secret_key || ends_so || SECRET_WORDS.contains(&last.as_str())
}

/// A key's words in lower case: split at whatever is no letter or digit, and at the humps of camel case
/// (`dbPassword`, `APIKey`). Digits at the end of a word don't belong to it (`password2`).
fn words(key: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for part in key.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty()) {
        let chars: Vec<char> = part.chars().collect();
        let mut word = String::new();
        for (at, c) in chars.iter().enumerate() {
            let before = at.checked_sub(1).and_then(|at| chars.get(at));
            let after = chars.get(at + 1);
            let hump = c.is_uppercase()
                && (before.is_some_and(|b| b.is_lowercase() || b.is_numeric())
                    || before.is_some_and(|b| b.is_uppercase()) && after.is_some_and(|a| a.is_lowercase()));
            if hump && !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
            word.extend(c.to_lowercase());
        }
        words.push(word);
    }
    words
        .into_iter()
        .map(|word| word.trim_end_matches(|c: char| c.is_numeric()).to_owned())
        .filter(|w| !w.is_empty())
        .collect()
}

#[cfg(test)]
mod tests;
