//! PostgreSQL over TLS: the server is verified, and what is wrong with it is told.

use central_hub::cli::stack::Postgres;
use tokio_postgres::NoTls;

use crate::certificates::Certificates;
use crate::identities::PATIENCE;
use crate::stack::{HubOptions, HubProcess, eventually, nats_url, scratch};

/// A PostgreSQL that offers TLS with this certificate.
async fn postgres_with(certificates: &Certificates, server: &str) -> Postgres {
    certificates.give_key_to_servers(&format!("{server}.key"));
    let options = scratch();
    let mut postgres = options.postgres();
    postgres.folder = options.data_dir;
    postgres.settings = [
        ("ssl", "on".to_owned()),
        ("ssl_cert_file", certificates.text(&format!("{server}.pem"))),
        ("ssl_key_file", certificates.text(&format!("{server}.key"))),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    Postgres::start(postgres).await.expect("a private PostgreSQL with TLS")
}

async fn hub(database_url: &str, env: &[(&str, &str)]) -> HubProcess {
    let options = HubOptions::on(&nats_url(), database_url);
    HubProcess::start(env.iter().fold(options, |options, (name, value)| options.env(name, value))).await
}

/// A hub with these variables serves, and all its connections to the database are encrypted (or none).
async fn serves(postgres: &Postgres, database_url: &str, env: &[(&str, &str)], encrypted: bool) {
    let mut hub = hub(database_url, env).await;
    hub.ready().await;
    let (client, connection) = tokio_postgres::connect(&postgres.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    let query =
        "SELECT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) WHERE a.application_name = 'central-hub'";
    let connections = client.query(query, &[]).await.unwrap();
    assert!(!connections.is_empty());
    assert!(connections.iter().all(|row| row.get::<_, bool>(0) == encrypted), "{connections:?}");
    hub.stop().await;
}

/// A hub with these variables says why it can't use the database, and waits.
async fn is_refused(postgres: &Postgres, database_url: &str, env: &[(&str, &str)], complaint: &str) {
    let mut hub = hub(database_url, env).await;
    eventually(PATIENCE, || async {
        let log = hub.log();
        let told = log.lines().any(|line| line.contains("waiting for PostgreSQL") && line.contains(complaint));
        if told { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(hub.is_running(), "it goes on waiting");
    let password = postgres.url().split([':', '@']).nth(2).unwrap().to_owned();
    assert!(password.len() > 20 && !hub.log().contains(&password), "{}", hub.log());
}

#[tokio::test]
async fn the_server_is_verified() {
    let certificates = Certificates::make();
    let [ca, stranger] = ["ca.pem", "stranger.pem"].map(|file| certificates.text(file));
    let (ca, stranger) = (("CENTRAL_HUB_DB_TLS_CA", ca.as_str()), ("CENTRAL_HUB_DB_TLS_CA", stranger.as_str()));
    let postgres = postgres_with(&certificates, "server").await;
    let url = postgres.url();

    serves(&postgres, &url, &[], false).await;
    serves(&postgres, &url, &[ca], true).await;
    serves(&postgres, &format!("{url}?sslmode=verify-full"), &[ca], true).await;
    // The system's certificates, as if ours were one of them.
    serves(&postgres, &format!("{url}?sslmode=verify-full"), &[("SSL_CERT_FILE", ca.1)], true).await;
    let (port, password) = (postgres.port().to_string(), url.split([':', '@']).nth(2).unwrap());
    let parts = [
        ("CENTRAL_HUB_DATABASE_URL", ""),
        ("CENTRAL_HUB_DB_HOST", "localhost"),
        ("CENTRAL_HUB_DB_PORT", &port),
        ("CENTRAL_HUB_DB_PASSWORD", password),
        ca,
    ];
    serves(&postgres, "", &parts, true).await;

    is_refused(&postgres, &url, &[stranger], "invalid peer certificate").await;
    for mode in ["require", "verify-ca", "verify-full"] {
        is_refused(&postgres, &format!("{url}?sslmode={mode}"), &[], "invalid peer certificate").await;
    }
}

#[tokio::test]
async fn a_certificate_for_another_host_and_a_server_without_tls_are_refused() {
    let certificates = Certificates::make();
    let ca = certificates.text("ca.pem");
    let ca = ("CENTRAL_HUB_DB_TLS_CA", ca.as_str());
    let postgres = postgres_with(&certificates, "elsewhere").await;
    is_refused(&postgres, &postgres.url(), &[ca], "not valid for name").await;
    let plain = crate::stack::private_postgres().await;
    is_refused(&plain, &plain.url(), &[ca], "TLS").await;
}
