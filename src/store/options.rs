//! How to reach Postgres.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::StoreError;

/// Where Postgres is and who the hub is to it. `Debug` never shows the password.
#[derive(Clone)]
pub struct DatabaseOptions {
    pub(super) config: tokio_postgres::Config,
    tls_ca: Option<PathBuf>,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Serving: nothing takes long, and a hub that is paused in a transaction must not hold its locks.
    Serve,
    /// Migrating: statements may take their time.
    Migrate,
    /// Asking one question: the caller sets the time, and a server that isn't ours gets no options that a pooler in front
    /// of it may not know.
    Probe,
}

/// A connection URL or one of its parts can't be used. Never shows the value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadOptions(pub String);

impl std::fmt::Debug for DatabaseOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DatabaseOptions({})", self.address())
    }
}

impl DatabaseOptions {
    /// Reads a URL, `postgresql://user:password@host:5432/central_hub?sslmode=verify-full`, or the key-value form of
    /// libpq. `sslmode` `require`, `verify-ca` and `verify-full` all mean TLS with a verified server; left out, there
    /// is none.
    ///
    /// # Errors
    /// The part that can't be used.
    pub fn from_url(url: &str) -> Result<Self, BadOptions> {
        let url = url.replace("sslmode=verify-full", "sslmode=require").replace("sslmode=verify-ca", "sslmode=require");
        let config = url.parse::<tokio_postgres::Config>().map_err(|_| {
            BadOptions("the database URL can't be read: it is postgresql://USER:PASSWORD@HOST:PORT/NAME".into())
        })?;
        if config.get_hosts().is_empty() {
            return Err(BadOptions("the database URL names no host".into()));
        }
        Ok(Self { config, tls_ca: None })
    }

    /// From single parts.
    #[must_use]
    pub fn from_parts(host: &str, port: u16, name: &str, user: &str, password: Option<&str>) -> Self {
        let mut config = tokio_postgres::Config::new();
        config.host(host).port(port).dbname(name).user(user);
        if let Some(password) = password {
            config.password(password);
        }
        Self { config, tls_ca: None }
    }

    /// Uses TLS with a verified server; `ca` is a PEM file of certificates to trust, else the system's are.
    #[must_use]
    pub fn with_tls(mut self, ca: Option<PathBuf>) -> Self {
        self.config.ssl_mode(SslMode::Require);
        self.tls_ca = ca;
        self
    }

    /// Whether connections are to be encrypted.
    pub(super) fn wants_tls(&self) -> bool {
        self.config.get_ssl_mode() == SslMode::Require
    }

    /// Host, port and database, for people.
    #[must_use]
    pub fn address(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
            #[cfg(unix)]
            Some(tokio_postgres::config::Host::Unix(path)) => path.display().to_string(),
            None => String::new(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        format!("{host}:{port}/{}", self.config.get_dbname().unwrap_or_default())
    }

    pub(super) fn postgres_config(&self, purpose: Purpose) -> Result<tokio_postgres::Config, StoreError> {
        let mut config = self.config.clone();
        config.application_name("central-hub").connect_timeout(Duration::from_secs(2));
        config.keepalives_idle(Duration::from_secs(10)).tcp_user_timeout(Duration::from_secs(10));
        let bounds = match purpose {
            Purpose::Serve => {
                "-c statement_timeout=10s -c lock_timeout=2s -c idle_in_transaction_session_timeout=5s -c jit=off -c central_hub.writer=hub"
            }
            Purpose::Migrate => "-c statement_timeout=0 -c lock_timeout=0",
            Purpose::Probe => {
                // Its own timeout ends it, unless there is another host to try.
                if config.get_hosts().len() == 1 {
                    config.connect_timeout(Duration::from_secs(60));
                }
                return Ok(config);
            }
        };
        let options = config.get_options().map_or_else(|| bounds.to_owned(), |given| format!("{bounds} {given}"));
        config.options(options);
        Ok(config)
    }

    pub(super) fn tls(&self) -> Result<Option<MakeRustlsConnect>, StoreError> {
        if !self.wants_tls() {
            return Ok(None);
        }
        let mut roots = rustls::RootCertStore::empty();
        match &self.tls_ca {
            Some(path) => {
                let certificates = CertificateDer::pem_file_iter(path).map_err(StoreError::defect)?;
                for certificate in certificates {
                    roots.add(certificate.map_err(StoreError::defect)?).map_err(StoreError::defect)?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(StoreError::defect)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Some(MakeRustlsConnect::new(config)))
    }
}
