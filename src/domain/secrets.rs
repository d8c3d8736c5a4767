//! Secrets in a config: found by the key that they stand under, or by a well-known form of the value.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use base64::alphabet;
use base64::engine::{DecodePaddingMode, Engine as _, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::percent_decode_str;
use regex::{Regex, RegexSet};
use serde_json::Value;

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

/// JSON pointers of the secrets in `config`, in order; never the values. What lies at or below a pointer of `allowed`
/// (the writer's `not_secret`) passes.
#[must_use]
pub fn find(config: &Value, allowed: &BTreeSet<String>) -> Vec<String> {
    let mut finder = Finder { allowed, found: Vec::new() };
    finder.visit(config, &mut String::new(), false);
    finder.found
}

/// JSON pointers of the texts in a JSON Schema that have a well-known form of a secret. Keys tell nothing there: a schema
/// has a property called `password` for good reason.
#[must_use]
pub fn find_forms(schema: &Value) -> Vec<String> {
    fn visit(value: &Value, path: &str, found: &mut Vec<String>) {
        match value {
            Value::String(text) if has_a_form(text) => found.push(path.to_owned()),
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(index, item)| visit(item, &format!("{path}/{index}"), found));
            }
            Value::Object(members) => {
                for (key, member) in members {
                    visit(member, &format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    visit(schema, "", &mut found);
    found
}

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
        let length = path.len();
        match value {
            Value::String(text) => {
                if !text.is_empty() && !is_reference(text) && (named || has_a_form(text)) {
                    self.found.push(path.clone());
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    path.push_str(&format!("/{index}"));
                    self.visit(item, path, named);
                    path.truncate(length);
                }
            }
            Value::Object(members) => {
                for (key, member) in members {
                    path.push('/');
                    path.push_str(&key.replace('~', "~0").replace('/', "~1"));
                    self.visit(member, path, names_a_secret(key));
                    path.truncate(length);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
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
mod tests {
    use super::*;
    use serde_json::json;

    fn found(config: Value) -> Vec<String> {
        find(&config, &BTreeSet::new())
    }

    /// `n` characters that look random enough. (Put together here so that no scanner of repositories takes the test's
    /// fakes for somebody's keys.)
    fn filler(n: usize) -> String {
        "a1B2c3D4e5F6g7H8j9".chars().cycle().take(n).collect()
    }

    #[test]
    fn keys_that_name_a_secret() {
        for key in [
            "password",
            "db_password",
            "dbPassword",
            "DB_PASSWORD",
            "db-password",
            "db.password",
            "password2",
            "passwd",
            "pwd",
            "adminPwd",
            "passphrase",
            "secret",
            "client_secret",
            "clientSecret",
            "CLIENT-SECRET",
            "token",
            "auth_token",
            "accessToken",
            "refresh.token",
            "credential",
            "credentials",
            "awsCredentials",
            "api_key",
            "apiKey",
            "API_KEY",
            "APIKey",
            "apikey",
            "polygonApiKey",
            "x-api-key",
            "access_key",
            "accessKey",
            "secret_key",
            "SECRET_KEY",
            "private_key",
            "privateKey",
            "signing_key",
            "signingKey",
            "encryption_key",
            "bearer",
            "authBearer",
            "dbpassword",
            "DBPASSWORD",
            "rootpasswd",
            "polygonapikey",
            "authtoken",
            "accesskey",
            "clientsecret",
            "privatekey",
            "aws.secret-access_key",
            "api key",
            "x/y:token",
            "token1",
            "token_2",
            "пароль.password",
            "oauth2Token",
            "dbPASSWORD",
        ] {
            assert!(names_a_secret(key), "{key}");
            assert_eq!(found(json!({ "a": { key: "x" } })).len(), 1, "{key}");
            assert_eq!(found(json!({ key: ["", "x", ["y"]] })).len(), 2, "{key}: in lists");
        }
    }

    #[test]
    fn keys_that_only_look_so() {
        for key in [
            "password_policy",
            "password_min_length",
            "passwordMinLength",
            "token_path",
            "token_bucket_size",
            "tokenBucketSize",
            "tokenizer",
            "max_tokens",
            "tokens",
            "api_key_header",
            "apiKeyHeader",
            "secret_santa",
            "secretary",
            "key",
            "primary_key",
            "partition_key",
            "public_key",
            "publicKey",
            "keyboard",
            "monkey",
            "access_key_id",
            "bearer_format",
            "credentials_provider",
            "pwd_file",
            "passwordless",
            "secrets_manager_region",
            "token_ttl_seconds",
            "tokenised",
            "compass",
            "bypass",
            "api",
            "cache_key",
            "sort_key",
            "routing_key",
            "token_count",
            "token_type",
            "tokens_per_minute",
            "stop_tokens",
            "special_tokens",
            "token_limit",
            "secret_name",
            "secret_ref",
            "secretKeyRef",
            "image_pull_secrets",
            "password_hash_algorithm",
            "password_reset_url",
            "forgot_password_link",
            "credentials_file",
            "credentialled",
            "api_keys_table",
            "api_version",
            "access_key_rotation_days",
            "private_key_path",
            "signing_key_id",
            "encryption_key_bits",
            "foreign_key",
            "idempotency_key",
            "keys",
            "monkey_api",
            "authorization_url",
            "bearer_only",
            "unsecret_mode",
            "cwd",
            "",
            "_",
            "2",
        ] {
            assert!(!names_a_secret(key), "{key}");
            assert_eq!(found(json!({ key: "bert" })), Vec::<String>::new(), "{key}");
        }
    }

    #[test]
    fn values_of_well_known_forms() {
        let base32: String = "ABCDEFGHJKLMNPQRSTUVWXYZ234567".chars().cycle().take(56).collect();
        for value in [
            format!("-----BEGIN {}PRIVATE KEY-----\nMII…", "RSA "),
            format!("-----BEGIN {}PRIVATE KEY-----", ""),
            format!("x\n-----BEGIN {}PRIVATE KEY-----", "OPENSSH "),
            format!("-----BEGIN {}PRIVATE KEY-----", "EC "),
            format!("-----BEGIN {}PRIVATE KEY-----", "ENCRYPTED "),
            format!("-----BEGIN PGP {} BLOCK-----", "PRIVATE KEY"),
            format!("AKIA{}", "IOSFODNN7EXAMPLE"),
            format!("id=ASIA{}", "Y34FZKBOKMUTVV7A"),
            format!("ghp_{}", filler(36)),
            format!("gho_{}", filler(36)),
            format!("ghs_{}", filler(36)),
            format!("github_pat_{}", filler(30)),
            format!("glpat-{}", filler(20)),
            format!("gldt-{}", filler(20)),
            format!("xoxb-{}", filler(24)),
            format!("xoxp-{}", filler(24)),
            format!("xapp-1-{}", filler(24)),
            format!("https://hooks.slack.com/services/T{}/B{}/{}", filler(8), filler(8), filler(24)),
            format!("sk_live_{}", filler(24)),
            format!("sk_test_{}", filler(24)),
            format!("rk_live_{}", filler(24)),
            format!("whsec_{}", filler(32)),
            format!("AIza{}", filler(35)),
            format!("ya29.{}", filler(40)),
            format!("GOCSPX-{}", filler(28)),
            format!("123456789:{}", filler(35)),
            format!("sk-{}", filler(48)),
            format!("sk-proj-{}", filler(40)),
            format!("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{}", filler(20)),
            format!("SU{base32}"),
            format!("SA{base32}"),
            "postgres://hub:hunter2@db:5432/x".into(),
            "redis://:hunter2@cache".into(),
            "amqp+ssl://u:p@h".into(),
            "clickhouse+http://h:8123/?user=u&password=hunter2".into(),
            "postgres://h/db?PASSWORD=x".into(),
            "postgres://h/db?sslmode=require&sslpassword=x".into(),
            "https://h/?passw%6Frd=x".into(),
            "https://h/?user=u&db_passwd=hunter2 and more".into(),
            "https://h/?api_key=3f9a77b1c2".into(),
            "https://h/?page=2&access_token=3f9a77b1c2".into(),
            "https://h/x?sv=2024-01-01&sig=a1B2%2Bc3D4%3D".into(),
            "https://h/?X-Amz-Signature=0123456789abcdef".into(),
            "first https://h/ then https://h/hook?token=a1b2c3d4e5".into(),
            "redis://:hunter2${env:CENTRAL_HUB_PROBE_P}@cache".into(),
            "redis://:${env:CENTRAL_HUB_PROBE_P}hunter2@cache".into(),
            format!("ghp_${{env:CENTRAL_HUB_PROBE_P}}{}", filler(36)),
            format!("Bearer {}", filler(20)),
            "bearer abcdef123456".into(),
            format!("Authorization: Bearer {}", filler(12)),
            "Basic dXNlcjpwYXNzd29yZA==".into(),
            "Basic aGVsbG86d29ybGQxMjM".into(),
            "Basic dXNlcjpwYXNz".into(),
            "basic YTpi".into(),
            "Authorization: Basic w7xzZXI6cMOkc3M=".into(),
            "first basic training, then Basic dXNlcjpwYXNz".into(),
            format!("bearer {}", "AbCdEfGhIjKlMnOpQrStUvWxYz"),
            format!("sk-ant-api03-{}-{}", filler(40), filler(30)),
            format!("sk-{}_{}", filler(10), filler(24)),
            "mongodb+srv://u:p@cluster.example/db".into(),
            "jdbc:postgresql://u:p@h/db".into(),
            "primary=nats://a:b@n1:4222 then more".into(),
            "https://:secret@example.com".into(),
            "postgres://probe:x${env:A}@db".into(),
            "postgres://probe:${env:}@db".into(),
            format!("npm_{}", filler(36)),
            format!("pypi-AgE{}", filler(60)),
            format!("hf_{}", filler(34)),
            format!("SG.{}.{}", filler(22), filler(43)),
            format!("dop_v1_{}", "0123456789abcdef".repeat(4)),
            format!("AccountName=x;AccountKey={}==;", filler(86)),
            format!("xoxe-1-{}", filler(20)),
            format!("ghu_{} at the end", filler(40)),
            format!("{{\"key\":\"AIza{}\"}}", filler(35)),
        ] {
            assert_eq!(found(json!({ "a": [{ "note": value }] })), ["/a/0/note"], "{value}");
        }
    }

    #[test]
    fn values_that_only_look_so() {
        for value in [
            "-----BEGIN CERTIFICATE-----\nMIIB…\n-----END CERTIFICATE-----",
            "-----BEGIN PUBLIC KEY-----",
            "AKIA",
            "pk_live_a1B2c3D4e5F6g7H8j9a1",
            "ghp_short",
            "sk-learn",
            "task-force-is-a-word-with-dashes",
            "risk-management-service-instance-1",
            "disk-usage-percent-threshold-high",
            "https://example.com/path?x=1",
            "https://user@example.com/",
            "nats://nats:4222,nats://nats-2:4222",
            "postgres://hub@db:5432/central_hub",
            "http://[::1]:8080/x@y",
            "https://h/reset?password_policy=strict",
            "https://h/?password=",
            "https://h/?q=password",
            "https://h/?page_token=a1b2c3d4e5f6",
            "https://h/?next_page_token=a1b2c3d4e5f6&limit=10",
            "https://h/?token=short1",
            "https://h/?token=symbol&api_key=default",
            "https://h/?api_key={api_key_v1}",
            "https://h/?api_key=<your-key-1>",
            "https://h/?api_key=YOUR_API_KEY",
            "https://h/?api_key=${env:API_KEY}&access_token=${env:TOKEN}",
            "https://h/?token_path=/run/secrets/token1234",
            "https://h/?sig_alg=sha256withrsa",
            "https://h/?key=partition12345",
            "https://h/#token=a1b2c3d4e5f6",
            "token=a1b2c3d4e5f6",
            "https://h/?password_reset=a1b2c3d4",
            "redis://:${env:CENTRAL_HUB_PROBE_P}@cache",
            "kafka://u:${env:CENTRAL_HUB_PROBE_P}@a:9092,b:9092",
            "https://h/?user=u&password=${env:CENTRAL_HUB_PROBE_P}",
            "Basic auth",
            "basic authentication",
            "Bearer of news",
            "bearer authentication",
            "10:30:00",
            "2026-01-05T10:00:00Z",
            "EURUSD",
            "eyJ",
            "SUMMARY",
            "550e8400-e29b-41d4-a716-446655440000",
            "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "5m",
            "token",
            "password",
            "Bearer token-based-authentication-scheme",
            "Bearer realm=\"example\"",
            "bearer of good tidings to 24 people",
            "Basic HTTP authentication",
            "basic training",
            "Basic plan",
            "Basic YWJjZGVmZ2g=",
            "BASIC",
            "sk-learn-gradient-boosting-classifier",
            "sk-SK.locale-of-the-slovak-republic",
            "npm_config_registry",
            "hf_transfer",
            "SG.south.east",
            "AccountKey=",
            "http://example.com:8080/a@b",
            "http://example.com:8080?to=a@b",
            "http://example.com:8080#a@b",
            "git@github.com:owner/name.git",
            "ssh://git@host:22/path",
            "user:password",
            "redis://cache:6379/0",
            "kafka://b1:9092,b2:9092",
            "${HOME}/.config",
            "{{ template }}",
            "eyJhbGciOiJIUzI1NiJ9",
            "a.b.c",
            "1700000000:550e8400-e29b-41d4-a716-446655440000",
            "2026-01-05T10:00:00+01:00",
            "AKIALOWER",
            "postgres://probe:${env:CENTRAL_HUB_PROBE_PG}@db:5432/x",
            "postgres://${env:PGUSER}:${env:PGPASSWORD}@db/x",
            "postgres://${env:PGUSER}@db/central_hub",
            "Authorization: Bearer ${env:TOKEN}",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample",
            "-----BEGIN CERTIFICATE REQUEST-----",
            "-----BEGIN EC PARAMETERS-----",
            "glpat-short",
            "xoxb-1",
            "SUNDAY",
            "UABCDEFGHJKLMNPQRSTUVWXYZ234567ABCDEFGHJKLMNPQRSTUVWXYZ2",
            "0123456789abcdef0123456789abcdef",
        ] {
            assert_eq!(found(json!({ "note": value })), Vec::<String>::new(), "{value}");
        }
    }

    #[test]
    fn schemas_are_looked_at_by_form_alone() {
        let token = format!("ghp_{}", filler(36));
        let schema = json!({
            "properties": {
                "password": { "type": "string", "default": "changeme", "pattern": "^sk-[A-Za-z0-9]{20,}$" },
                "url": { "default": "postgres://u:hush@db/x", "examples": ["postgres://u:${env:P}@db/x"] },
                "a/b": { "enum": ["x", token] },
            },
            "$comment": "Bearer of news",
        });
        let mut found = find_forms(&schema);
        found.sort();
        assert_eq!(found, ["/properties/a~1b/enum/1", "/properties/url/default"]);
    }

    #[test]
    fn what_is_no_text_is_no_secret() {
        let config = json!({
            "password": null, "token": 5, "secret": false, "pwd": "", "api_key": {"header": "X-Key"}, "credentials": [],
            "secret_santa": false, "token_bucket_size": 5,
        });
        assert_eq!(found(config), Vec::<String>::new());
    }

    #[test]
    fn references_pass_as_whole_values_only() {
        let config = json!({ "password": "${env:DB_PASSWORD}", "tokens": { "token": ["${env:A_1}"] } });
        assert_eq!(found(config), Vec::<String>::new());
        for value in ["${env:}", "${env:1A}", "x${env:A}", "${env:A}x", "${env:A}\n", "${ENV:A}", "$A"] {
            assert_eq!(found(json!({ "password": value })), ["/password"], "{value:?}");
        }
    }

    #[test]
    fn what_the_writer_vouches_for_passes() {
        let config = json!({ "a/b": { "token": "x" }, "password": ["x", "y"], "secret": "z" });
        assert_eq!(found(config.clone()), ["/a~1b/token", "/password/0", "/password/1", "/secret"]);
        let allowed = BTreeSet::from(["/a~1b/token".to_owned(), "/password".to_owned()]);
        assert_eq!(find(&config, &allowed), ["/secret"]);
    }
}
