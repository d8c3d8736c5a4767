//! TLS with a verified server.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Failure;
use super::target::CA_VARIABLE;

/// Settings that are being made, or are.
type Making = Shared<BoxFuture<'static, Result<Arc<ClientConfig>, String>>>;

/// The settings of TLS, made when they are first needed.
pub(super) struct Tls {
    /// PEM file of certificates to trust instead of the system's.
    ca: Option<PathBuf>,
    /// Made once, by whichever probe asks first, and made to the end even if that one is given up meanwhile.
    config: OnceLock<Making>,
}

impl Tls {
    pub fn trusting(ca: Option<PathBuf>) -> Self {
        Self { ca, config: OnceLock::new() }
    }

    /// The settings.
    pub async fn config(&self) -> Result<Arc<ClientConfig>, Failure> {
        let making = self.config.get_or_init(|| {
            let ca = self.ca.clone();
            // The system's certificates may be hundreds of files.
            let task = tokio::task::spawn_blocking(move || client_config(ca.as_deref()));
            async { task.await.unwrap_or_else(|_| Err("the certificates to trust can't be read".into())) }
                .boxed()
                .shared()
        });
        making.clone().await.map_err(Failure::Unusable)
    }

    /// Encrypts a connection to `host`.
    pub async fn secure(&self, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, Failure> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Failure::Unusable("its host is no name that a certificate could hold".into()))?;
        let connector = TlsConnector::from(self.config().await?);
        connector.connect(name, stream).await.map_err(|error| Failure::io(&error))
    }
}

fn client_config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let unreadable = || format!("{CA_VARIABLE} names a file that holds no certificates");
            for certificate in CertificateDer::pem_file_iter(path).map_err(|_| unreadable())? {
                roots.add(certificate.map_err(|_| unreadable())?).map_err(|_| unreadable())?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS can't be set up: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
