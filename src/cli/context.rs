//! Contexts of the `nats` command line: saved addresses and credentials.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::nats::{BadOption, NatsOptions};

/// The part of a context that this program understands.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Context {
    url: String,
    user: String,
    password: String,
    token: String,
    creds: String,
    nkey: String,
    cert: String,
    key: String,
    ca: String,
    inbox_prefix: String,
    nsc: String,
    user_jwt: String,
}

/// Reads the context `name`, from where the `nats` command line keeps it.
///
/// # Errors
/// When there is none, or it has credentials of a kind that can't be used here.
pub fn read(name: &str) -> Result<Context, BadOption> {
    let bad = |text: String| BadOption(format!("--context: {text}"));
    if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
        return Err(bad(format!("{name:?} is no name of a context")));
    }
    let folder = folder().ok_or_else(|| bad("this user has no home folder".into()))?;
    let file = folder.join("context").join(format!("{name}.json"));
    let text = std::fs::read_to_string(&file)
        .map_err(|error| bad(format!("{} can't be read: {error}; `nats context ls` lists them", file.display())))?;
    // First as an object: serde takes a list for the members in their order, too, and an empty one for none of them.
    let context: Context = serde_json::from_str::<Map<String, Value>>(&text)
        .and_then(|members| serde_json::from_value(Value::Object(members)))
        .map_err(|error| bad(format!("{} is no context: {error}", file.display())))?;
    if !context.nsc.is_empty() || !context.user_jwt.is_empty() {
        return Err(bad(format!("{name} takes its credentials from nsc or a JWT: use a credentials file instead")));
    }
    Ok(context)
}

fn folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(config.join("nats"))
}

impl Context {
    /// Puts what the context says in the place of `options`.
    ///
    /// # Errors
    /// When the file with the nkey's seed can't be read.
    pub fn apply(self, options: &mut NatsOptions) -> Result<(), BadOption> {
        let given = |text: String| (!text.is_empty()).then_some(text);
        if let Some(url) = given(self.url) {
            options.urls = url.split(',').map(|url| url.trim().to_owned()).collect();
        }
        if let Some(user) = given(self.user) {
            (options.user, options.password) = (Some(user), Some(self.password));
        }
        if let Some(token) = given(self.token) {
            options.token = Some(token);
        }
        if let Some(creds) = given(self.creds) {
            options.credentials_file = Some(creds.into());
        }
        if let Some(path) = given(self.nkey) {
            let seed = std::fs::read_to_string(&path)
                .map_err(|error| BadOption(format!("--context: {path} can't be read: {error}")))?;
            options.nkey_seed = Some(seed.trim().to_owned());
        }
        if let Some(ca) = given(self.ca) {
            options.tls_ca = Some(ca.into());
        }
        if let (Some(cert), Some(key)) = (given(self.cert), given(self.key)) {
            options.tls_identity = Some((cert.into(), key.into()));
        }
        if let Some(prefix) = given(self.inbox_prefix) {
            options.inbox_prefix = Some(prefix);
        }
        Ok(())
    }
}
