//! Flags and environment variables that say where NATS and Postgres are, shared by the commands that need them.

use std::path::PathBuf;

use clap::Args;

use crate::nats::{BadOption, NatsOptions, check_file, inbox_prefix, secret};
use crate::store::DatabaseOptions;

/// Where NATS is. Credentials come from the environment only: CENTRAL_HUB_NATS_USER, _PASSWORD, _TOKEN, _NKEY_SEED
/// (each also as ..._FILE, the path of a file that holds it).
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "NATS")]
pub struct NatsArgs {
    /// Servers, separated by commas
    #[arg(
        long,
        global = true,
        env = "CENTRAL_HUB_NATS_URL",
        value_name = "URL",
        default_value = "nats://127.0.0.1:4222",
        value_delimiter = ','
    )]
    pub nats_url: Vec<String>,
    /// Credentials file (JWT and seed) of the connection that answers
    #[arg(long, global = true, hide_short_help = true, env = "CENTRAL_HUB_NATS_CREDS", value_name = "FILE")]
    pub nats_creds: Option<PathBuf>,
    /// PEM file of certificates to trust, instead of the system's
    #[arg(long, global = true, hide_short_help = true, env = "CENTRAL_HUB_NATS_TLS_CA", value_name = "FILE")]
    pub nats_tls_ca: Option<PathBuf>,
    /// PEM file of the client certificate, for mutual TLS
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "CENTRAL_HUB_NATS_TLS_CERT",
        value_name = "FILE",
        requires = "nats_tls_key"
    )]
    pub nats_tls_cert: Option<PathBuf>,
    /// PEM file of the client certificate's key
    #[arg(
        long,
        global = true,
        hide_short_help = true,
        env = "CENTRAL_HUB_NATS_TLS_KEY",
        value_name = "FILE",
        requires = "nats_tls_cert"
    )]
    pub nats_tls_key: Option<PathBuf>,
    /// Refuse a connection without TLS
    #[arg(long, global = true, hide_short_help = true, env = "CENTRAL_HUB_NATS_TLS_REQUIRED")]
    pub nats_tls_required: bool,
    /// Where this program's own answers arrive
    #[arg(long, global = true, hide_short_help = true, env = "CENTRAL_HUB_NATS_INBOX_PREFIX", value_name = "PREFIX", value_parser = inbox_prefix)]
    pub nats_inbox_prefix: Option<String>,
}

impl NatsArgs {
    /// The options of the connection whose variables begin with `prefix`, `CENTRAL_HUB_NATS` for the main one.
    ///
    /// # Errors
    /// A file that can't be read, a user without a password or the other way round, a URL that holds one, a seed that is
    /// none.
    pub fn options(&self, prefix: &str) -> Result<NatsOptions, BadOption> {
        for (name, path) in [
            ("--nats-creds", &self.nats_creds),
            ("--nats-tls-ca", &self.nats_tls_ca),
            ("--nats-tls-cert", &self.nats_tls_cert),
            ("--nats-tls-key", &self.nats_tls_key),
        ] {
            check_file(name, path.as_deref())?;
        }
        let options = NatsOptions {
            urls: self.nats_url.clone(),
            credentials_file: self.nats_creds.clone(),
            tls_ca: self.nats_tls_ca.clone(),
            tls_identity: self.nats_tls_cert.clone().zip(self.nats_tls_key.clone()),
            tls_required: self.nats_tls_required,
            inbox_prefix: self.nats_inbox_prefix.clone(),
            ..NatsOptions::default()
        };
        let options = options.with_secrets_of(prefix)?;
        options.check()?;
        Ok(options)
    }

    /// The options of a connection with an identity of its own, whose variables begin with `prefix`; `None` when neither
    /// they nor `credentials_file` give one. Its inboxes begin as the main connection's do, unless `inbox_prefix` says
    /// otherwise.
    ///
    /// # Errors
    /// As [`NatsArgs::options`].
    pub fn other_identity(
        &self,
        prefix: &str,
        credentials_file: Option<&PathBuf>,
        inbox_prefix: Option<&String>,
    ) -> Result<Option<NatsOptions>, BadOption> {
        check_file("the credentials file", credentials_file.map(PathBuf::as_path))?;
        let mut other = self.options(prefix)?;
        other.credentials_file = credentials_file.cloned();
        if let Some(prefix) = inbox_prefix {
            other.inbox_prefix = Some(prefix.clone());
        }
        let known =
            other.user.is_some() || other.token.is_some() || other.nkey_seed.is_some() || credentials_file.is_some();
        Ok(known.then_some(other))
    }
}

/// Where Postgres is. The password, or a whole URL, comes from the environment only: CENTRAL_HUB_DB_PASSWORD or
/// CENTRAL_HUB_DATABASE_URL (each also as ..._FILE).
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "PostgreSQL")]
pub struct DatabaseArgs {
    /// Host
    #[arg(long, env = "CENTRAL_HUB_DB_HOST", value_name = "HOST", default_value = "127.0.0.1")]
    pub db_host: String,
    /// Port
    #[arg(long, env = "CENTRAL_HUB_DB_PORT", value_name = "PORT", default_value_t = 5432)]
    pub db_port: u16,
    /// Database
    #[arg(long, env = "CENTRAL_HUB_DB_NAME", value_name = "NAME", default_value = "central_hub")]
    pub db_name: String,
    /// User
    #[arg(long, env = "CENTRAL_HUB_DB_USER", value_name = "NAME", default_value = "central_hub")]
    pub db_user: String,
    /// Use TLS, with a verified server
    #[arg(long, env = "CENTRAL_HUB_DB_TLS")]
    pub db_tls: bool,
    /// PEM file of certificates to trust, instead of the system's
    #[arg(long, env = "CENTRAL_HUB_DB_TLS_CA", value_name = "FILE")]
    pub db_tls_ca: Option<PathBuf>,
}

impl DatabaseArgs {
    /// The options: CENTRAL_HUB_DATABASE_URL where it is set, else the single parts.
    ///
    /// # Errors
    /// A URL that can't be read, or a file that can't be.
    pub fn options(&self) -> Result<DatabaseOptions, BadOption> {
        let options = match secret("CENTRAL_HUB_DATABASE_URL")? {
            Some(url) => DatabaseOptions::from_url(&url).map_err(|error| BadOption(error.to_string()))?,
            None => {
                let password = secret("CENTRAL_HUB_DB_PASSWORD")?;
                DatabaseOptions::from_parts(
                    &self.db_host,
                    self.db_port,
                    &self.db_name,
                    &self.db_user,
                    password.as_deref(),
                )
            }
        };
        check_file("--db-tls-ca", self.db_tls_ca.as_deref())?;
        let tls = self.db_tls || self.db_tls_ca.is_some();
        Ok(if tls { options.with_tls(self.db_tls_ca.clone()) } else { options })
    }
}
