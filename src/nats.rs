//! How to reach NATS and as whom: the same options for the hub, for the command line and for services.

use std::error::Error as _;
use std::path::{Path, PathBuf};

use async_nats::{ConnectError, ConnectOptions};

use crate::wire::subject;

/// Where NATS listens when nobody says otherwise.
pub const DEFAULT_URL: &str = "nats://127.0.0.1:4222";

/// An option that can't be used. The text names the option and the rule, and never shows a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadOption(pub String);

/// How to reach NATS and as whom. Credentials inside a URL are ignored by the client library, so they stand here.
#[derive(Clone, Default)]
pub struct NatsOptions {
    /// Servers, `nats://host:4222` or `tls://…`.
    pub urls: Vec<String>,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Token.
    pub token: Option<String>,
    /// Seed of an nkey.
    pub nkey_seed: Option<String>,
    /// Credentials file (JWT and seed).
    pub credentials_file: Option<PathBuf>,
    /// PEM file of certificates to trust, instead of the system's.
    pub tls_ca: Option<PathBuf>,
    /// PEM files of certificate and key for mutual TLS.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
    /// Refuse a connection without TLS.
    pub tls_required: bool,
    /// Where this client's own answers arrive, `_INBOX` by default.
    pub inbox_prefix: Option<String>,
}

impl std::fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsOptions").field("urls", &self.urls).field("user", &self.user).finish_non_exhaustive()
    }
}

impl NatsOptions {
    /// The server at `url`, as nobody in particular.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self { urls: vec![url.to_owned()], ..Self::default() }
    }

    /// What `CENTRAL_HUB_NATS_URL` (servers, separated by commas), `…_CREDS`, `…_TLS_CA`, `…_TLS_CERT` and `…_TLS_KEY`,
    /// `…_TLS_REQUIRED`, `…_INBOX_PREFIX`, and the [secrets](Self::with_secrets_of) say.
    ///
    /// # Errors
    /// [`BadOption`], as [`check`](Self::check), or for a variable that can't be read.
    pub fn from_env() -> Result<Self, BadOption> {
        let path = |name: &str| variable(name).map(|path| path.map(PathBuf::from));
        let urls = variable("CENTRAL_HUB_NATS_URL")?.unwrap_or_else(|| DEFAULT_URL.to_owned());
        let (certificate, key) = (path("CENTRAL_HUB_NATS_TLS_CERT")?, path("CENTRAL_HUB_NATS_TLS_KEY")?);
        if certificate.is_some() != key.is_some() {
            let text = "CENTRAL_HUB_NATS_TLS_CERT and CENTRAL_HUB_NATS_TLS_KEY go together: set both or none";
            return Err(BadOption(text.into()));
        }
        let options = Self {
            urls: urls.split(',').map(|url| url.trim().to_owned()).collect(),
            credentials_file: path("CENTRAL_HUB_NATS_CREDS")?,
            tls_ca: path("CENTRAL_HUB_NATS_TLS_CA")?,
            tls_identity: certificate.zip(key),
            tls_required: flag("CENTRAL_HUB_NATS_TLS_REQUIRED")?,
            inbox_prefix: variable("CENTRAL_HUB_NATS_INBOX_PREFIX")?,
            ..Self::default()
        };
        let options = options.with_secrets_of("CENTRAL_HUB_NATS")?;
        options.check()?;
        Ok(options)
    }

    /// Adds who one is, from the variables `<prefix>_USER`, `_PASSWORD`, `_TOKEN` and `_NKEY_SEED`, each of which may also
    /// come as `…_FILE`, the path of a file that holds it.
    ///
    /// # Errors
    /// A file that can't be read, a user without a password or the other way round, a seed that is none.
    pub fn with_secrets_of(self, prefix: &str) -> Result<Self, BadOption> {
        let own = |name: &str| secret(&format!("{prefix}_{name}"));
        let (user, password, nkey_seed) = (own("USER")?, own("PASSWORD")?, own("NKEY_SEED")?);
        match (&user, &password) {
            (Some(_), None) => return Err(BadOption(format!("{prefix}_USER is set, but {prefix}_PASSWORD isn't"))),
            (None, Some(_)) => return Err(BadOption(format!("{prefix}_PASSWORD is set, but {prefix}_USER isn't"))),
            _ => {}
        }
        if nkey_seed.as_ref().is_some_and(|seed| !is_user_seed(seed)) {
            let rule = "holds no user's seed: that is 58 characters from SU on";
            return Err(BadOption(format!("{prefix}_NKEY_SEED {rule}")));
        }
        Ok(Self { user, password, token: own("TOKEN")?, nkey_seed, ..self })
    }

    /// Checks what would otherwise show as an outage that never ends.
    ///
    /// # Errors
    /// A URL that is none or holds a user, a file that can't be read, a seed that is none, an inbox prefix that is no
    /// plain subject.
    pub fn check(&self) -> Result<(), BadOption> {
        if self.urls.iter().any(|url| url.contains('@')) {
            let text = "the NATS URL holds a user: set CENTRAL_HUB_NATS_USER and CENTRAL_HUB_NATS_PASSWORD instead";
            return Err(BadOption(text.into()));
        }
        if let Some(url) = self.urls.iter().find(|url| url.parse::<async_nats::ServerAddr>().is_err()) {
            return Err(BadOption(format!("{url} is no address of a NATS server, which looks like {DEFAULT_URL}")));
        }
        if self.urls.is_empty() {
            return Err(BadOption(format!("no address of a NATS server is given, which looks like {DEFAULT_URL}")));
        }
        if self.nkey_seed.as_ref().is_some_and(|seed| !is_user_seed(seed)) {
            return Err(BadOption("the nkey seed is no user's: that is 58 characters from SU on".into()));
        }
        if let Some(prefix) = &self.inbox_prefix {
            inbox_prefix(prefix).map_err(|rule| BadOption(format!("the inbox prefix {rule}")))?;
        }
        check_file("the credentials file", self.credentials_file.as_deref())?;
        check_file("the file of certificates to trust", self.tls_ca.as_deref())?;
        check_file("the client certificate", self.tls_identity.as_ref().map(|(certificate, _)| certificate.as_path()))?;
        check_file("the client certificate's key", self.tls_identity.as_ref().map(|(_, key)| key.as_path()))
    }

    /// The client library's options for these.
    ///
    /// # Errors
    /// What is wrong with the credentials file.
    pub async fn connect_options(&self) -> Result<ConnectOptions, std::io::Error> {
        let mut connect = ConnectOptions::new();
        if let (Some(user), Some(password)) = (&self.user, &self.password) {
            connect = connect.user_and_password(user.clone(), password.clone());
        }
        if let Some(token) = &self.token {
            connect = connect.token(token.clone());
        }
        if let Some(seed) = &self.nkey_seed {
            connect = connect.nkey(seed.clone());
        }
        if let Some(path) = &self.credentials_file {
            connect = connect.credentials(&tokio::fs::read_to_string(path).await?)?;
        }
        if let Some(path) = &self.tls_ca {
            connect = connect.add_root_certificates(path.clone());
        }
        if let Some((certificate, key)) = &self.tls_identity {
            connect = connect.add_client_certificate(certificate.clone(), key.clone());
        }
        if let Some(prefix) = &self.inbox_prefix {
            connect = connect.custom_inbox_prefix(prefix);
        }
        Ok(connect.require_tls(self.tls_required))
    }
}

/// What the client library says, in plain words where its own tell a person nothing.
#[must_use]
pub fn explain(error: ConnectError) -> Box<dyn std::error::Error + Send + Sync> {
    let io = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    let tls = io.and_then(std::io::Error::get_ref).and_then(|cause| cause.downcast_ref::<async_nats::rustls::Error>());
    match tls {
        Some(async_nats::rustls::Error::InvalidMessage(_)) => {
            "the server doesn't speak TLS, which is required here".into()
        }
        _ => error.into(),
    }
}

/// A file that is missing now is a mistake, not an outage to wait out.
///
/// # Errors
/// [`BadOption`] with `name`, when the file can't be opened.
pub fn check_file(name: &str, path: Option<&Path>) -> Result<(), BadOption> {
    let Some(path) = path else { return Ok(()) };
    let readable = std::fs::File::open(path).map(|_| ());
    readable.map_err(|error| BadOption(format!("{name}: {} can't be read: {error}", path.display())))
}

/// Whether it looks like the seed of a user's nkey; the check sum is left to the client library.
fn is_user_seed(text: &str) -> bool {
    text.len() == 58 && text.starts_with("SU") && text.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7'))
}

/// The start of inboxes: tokens of a plain subject.
///
/// # Errors
/// A text for people, when it is no such thing.
pub fn inbox_prefix(text: &str) -> Result<String, String> {
    if subject::matches(">", text) { Ok(text.into()) } else { Err("must be a plain subject, like _INBOX.me".into()) }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// The first tokens of all subjects of a hub.
///
/// # Errors
/// A text for people, when it is no such thing.
pub fn subject_prefix(text: &str) -> Result<String, String> {
    let fine = text.split('.').all(is_token);
    if fine { Ok(text.into()) } else { Err("must be tokens of A-Z a-z 0-9 _ -, separated by dots".into()) }
}

/// The start of all bucket names of a hub.
///
/// # Errors
/// A text for people, when it is no such thing.
pub fn bucket_prefix(text: &str) -> Result<String, String> {
    if is_token(text) { Ok(text.into()) } else { Err("must be of A-Z a-z 0-9 _ -".into()) }
}

/// An environment variable; an empty one is as if it weren't set.
///
/// # Errors
/// When its value isn't text.
pub fn variable(name: &str) -> Result<Option<String>, BadOption> {
    match std::env::var(name) {
        Ok(value) => Ok(Some(value).filter(|value| !value.is_empty())),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => Err(BadOption(format!("{name} isn't text"))),
    }
}

/// A truth value from an environment variable, in the words that the command line's own take.
fn flag(name: &str) -> Result<bool, BadOption> {
    match variable(name)?.map(|value| value.to_ascii_lowercase()).as_deref() {
        None | Some("0" | "n" | "no" | "f" | "false" | "off") => Ok(false),
        Some("1" | "y" | "yes" | "t" | "true" | "on") => Ok(true),
        Some(_) => Err(BadOption(format!("{name} must be true or false"))),
    }
}

/// A secret from the environment variable `name`, or from the file that `name`_FILE names; never from a flag, which
/// other users of the machine could read.
///
/// # Errors
/// When the file can't be read, or both are set.
pub fn secret(name: &str) -> Result<Option<String>, BadOption> {
    let file_variable = format!("{name}_FILE");
    match (variable(name)?, variable(&file_variable)?) {
        (Some(_), Some(_)) => Err(BadOption(format!("{name} and {file_variable} are both set: unset one"))),
        (Some(value), None) => Ok(Some(value)),
        (None, Some(path)) => match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned())),
            Err(error) => Err(BadOption(format!("{file_variable}: {path} can't be read: {error}"))),
        },
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_work_is_told_before_it_is_tried() {
        let seed = NatsOptions { nkey_seed: Some("SUx".into()), ..NatsOptions::new(DEFAULT_URL) };
        let inbox = NatsOptions { inbox_prefix: Some("_INBOX.>".into()), ..NatsOptions::new(DEFAULT_URL) };
        let file = NatsOptions { tls_ca: Some("/no/such/file".into()), ..NatsOptions::new(DEFAULT_URL) };
        let cases = [
            (NatsOptions::new("nats://me:open_sesame@host:4222"), "holds a user"),
            (NatsOptions::new("nats://host:no-port"), "no address"),
            (NatsOptions::default(), "no address"),
            (seed, "58 characters"),
            (inbox, "plain subject"),
            (file, "/no/such/file can't be read"),
        ];
        for (options, complaint) in cases {
            let told = options.check().err().map(|error| error.to_string()).unwrap_or_default();
            assert!(told.contains(complaint) && !told.contains("open_sesame"), "{options:?}: {told}");
        }
        assert_eq!(NatsOptions::new("tls://a:4222").check(), Ok(()));
    }
}
