//! Every way to prove to NATS who one is, for the daemon and for the command line: the right credentials serve, wrong
//! ones are told without being shown, and the daemon waits for better days.

use std::process::{Command, Output};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use central_hub::cli::stack::NatsServer;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::certificates::{Certificates, secret_file};
use crate::client_access::is_let_in;
use crate::identities::{PATIENCE, nats_with};
use crate::stack::{HubOptions, HubProcess, database, eventually, executable};

type Environment<'a> = &'a [(&'a str, &'a str)];

/// `central-hub health` with these variables and no others.
fn ask_health(options: &HubOptions, env: Environment) -> Output {
    Command::new(executable())
        .args(["health", "--timeout", "5s"])
        .env_clear()
        .env("CENTRAL_HUB_NATS_URL", &options.nats_url)
        .env("CENTRAL_HUB_SUBJECT_PREFIX", &options.prefix)
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

async fn hub(nats: &NatsServer, env: Environment<'_>) -> HubProcess {
    let options = HubOptions::on(&nats.url(), &database().await);
    HubProcess::start(env.iter().fold(options, |options, (name, value)| options.env(name, value))).await
}

/// A hub, the command line and a service with these variables are served.
async fn serves(nats: &NatsServer, env: Environment<'_>) {
    let hub = hub(nats, env).await;
    eventually(PATIENCE, || async {
        let output = ask_health(hub.options(), env);
        if output.status.success() { Ok(()) } else { Err(format!("{output:?}\n{}", hub.log())) }
    })
    .await;
    is_let_in(&nats.url(), env);
}

/// A hub with these variables says `complaint` again and again, and the command line says it once; neither shows a secret.
async fn is_refused(nats: &NatsServer, env: Environment<'_>, complaint: &str, secrets: &[&str]) {
    let mut hub = hub(nats, env).await;
    eventually(PATIENCE, || async {
        let log = hub.log();
        let tries = log.lines().filter(|line| line.contains("waiting for NATS") && line.contains(complaint)).count();
        if tries >= 3 { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(hub.is_running(), "it goes on waiting");
    let output = ask_health(hub.options(), env);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(complaint), "{said}");
    let everything = said + &hub.log() + &String::from_utf8_lossy(&output.stdout);
    for secret in secrets {
        assert!(!everything.contains(secret), "{everything}");
    }
}

#[tokio::test]
async fn user_and_password() {
    let nats = nats_with(r#"authorization { users: [{user: hub, password: open_sesame}] }"#).await;
    serves(&nats, &[("CENTRAL_HUB_NATS_USER", "hub"), ("CENTRAL_HUB_NATS_PASSWORD", "open_sesame")]).await;
    let wrong = [("CENTRAL_HUB_NATS_USER", "hub"), ("CENTRAL_HUB_NATS_PASSWORD", "open_barley")];
    is_refused(&nats, &wrong, "authorization violation", &["open_barley"]).await;
    is_refused(&nats, &[], "authorization violation", &[]).await;

    let folder = tempfile::tempdir().unwrap();
    let right = secret_file(folder.path(), "right", "open_sesame");
    serves(&nats, &[("CENTRAL_HUB_NATS_USER", "hub"), ("CENTRAL_HUB_NATS_PASSWORD_FILE", &right)]).await;
    let wrong = secret_file(folder.path(), "wrong", "open_barley");
    let wrong = [("CENTRAL_HUB_NATS_USER", "hub"), ("CENTRAL_HUB_NATS_PASSWORD_FILE", wrong.as_str())];
    is_refused(&nats, &wrong, "authorization violation", &["open_barley"]).await;
}

#[tokio::test]
async fn credentials_that_are_valid_no_more_and_then_again() {
    let config = |password: &str| format!("authorization {{ users: [{{user: hub, password: {password}}}] }}");
    let mut nats = nats_with(&config("open_sesame")).await;
    let env = [("CENTRAL_HUB_NATS_USER", "hub"), ("CENTRAL_HUB_NATS_PASSWORD", "open_sesame")];
    let mut hub = hub(&nats, &env).await;
    let options = hub.options().clone();
    let is_served = || async { ask_health(&options, &env).status.success() };
    eventually(PATIENCE, is_served).await;
    let file = nats.folder().join("server.conf");
    let before = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, before.replace("open_sesame", "open_barley")).unwrap();
    nats.restart().await.unwrap();
    eventually(PATIENCE, || async { hub.log().to_lowercase().contains("authorization violation") }).await;
    std::fs::write(&file, before).unwrap();
    nats.restart().await.unwrap();
    eventually(PATIENCE, is_served).await;
    assert!(hub.is_running() && !hub.log().contains("open_"), "{}", hub.log());
}

#[tokio::test]
async fn a_token() {
    let nats = nats_with(r#"authorization { token: open_sesame }"#).await;
    serves(&nats, &[("CENTRAL_HUB_NATS_TOKEN", "open_sesame")]).await;
    is_refused(&nats, &[("CENTRAL_HUB_NATS_TOKEN", "open_barley")], "authorization violation", &["open_barley"]).await;
    let folder = tempfile::tempdir().unwrap();
    let right = secret_file(folder.path(), "right", "open_sesame");
    serves(&nats, &[("CENTRAL_HUB_NATS_TOKEN_FILE", &right)]).await;
}

#[tokio::test]
async fn an_nkey() {
    let (right, wrong) = (KeyPair::new_user(), KeyPair::new_user().seed().unwrap());
    let nats = nats_with(&format!("authorization {{ users: [{{nkey: {}}}] }}", right.public_key())).await;
    let right = right.seed().unwrap();
    serves(&nats, &[("CENTRAL_HUB_NATS_NKEY_SEED", &right)]).await;
    is_refused(&nats, &[("CENTRAL_HUB_NATS_NKEY_SEED", &wrong)], "authorization violation", &[&wrong]).await;
    let folder = tempfile::tempdir().unwrap();
    let file = secret_file(folder.path(), "seed", &right);
    serves(&nats, &[("CENTRAL_HUB_NATS_NKEY_SEED_FILE", &file)]).await;
}

/// A token as a NATS operator's tools make them.
fn signed(signer: &KeyPair, subject: &KeyPair, kind: &str, more: Value) -> String {
    let mut nats = json!({"type": kind, "version": 2});
    nats.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let claims = json!({"jti": nuid::next().to_string(), "iat": 1_767_225_600, "iss": signer.public_key(),
        "name": kind, "sub": subject.public_key(), "nats": nats});
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let header = encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let text = format!("{header}.{}", encode(claims.to_string().as_bytes()));
    let signature = signer.sign(text.as_bytes()).unwrap();
    format!("{text}.{}", encode(&signature))
}

#[tokio::test]
async fn a_credentials_file() {
    let (operator, system, account) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let unlimited = json!({"limits": {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
        "wildcards": true, "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}});
    let no_streams = json!({"limits": {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1,
        "wildcards": true, "conn": -1, "leaf": -1}});
    let nats = nats_with(&format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}, {}: {} }}\n",
        signed(&operator, &operator, "operator", json!({})),
        system.public_key(),
        system.public_key(),
        signed(&operator, &system, "account", no_streams),
        account.public_key(),
        signed(&operator, &account, "account", unlimited),
    ))
    .await;
    let folder = tempfile::tempdir().unwrap();
    let credentials = |name: &str, signer: &KeyPair| {
        let user = KeyPair::new_user();
        let token = signed(signer, &user, "user", json!({"subs": -1, "data": -1, "payload": -1}));
        let seed = user.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        (secret_file(folder.path(), name, &text), seed)
    };
    let (right, _) = credentials("right.creds", &account);
    let (own, _) = credentials("writer.creds", &account);
    serves(&nats, &[("CENTRAL_HUB_NATS_CREDS", &right)]).await;
    serves(&nats, &[("CENTRAL_HUB_NATS_CREDS", &right), ("CENTRAL_HUB_NATS_WRITER_CREDS", &own)]).await;
    // Signed by somebody whom the server doesn't know.
    let (wrong, seed) = credentials("wrong.creds", &KeyPair::new_account());
    is_refused(&nats, &[("CENTRAL_HUB_NATS_CREDS", &wrong)], "authorization violation", &[&seed]).await;
}

#[tokio::test]
async fn tls() {
    let certificates = Certificates::make();
    let [ca, stranger] = ["ca.pem", "stranger.pem"].map(|file| certificates.text(file));
    let config = |server: &str| {
        let [certificate, key] = ["pem", "key"].map(|kind| certificates.text(&format!("{server}.{kind}")));
        format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}")
    };
    let nats = nats_with(&config("server")).await;
    serves(&nats, &[("CENTRAL_HUB_NATS_TLS_CA", &ca)]).await;
    serves(&nats, &[("CENTRAL_HUB_NATS_TLS_CA", &ca), ("CENTRAL_HUB_NATS_TLS_REQUIRED", "true")]).await;
    is_refused(&nats, &[("CENTRAL_HUB_NATS_TLS_CA", &stranger)], "invalid peer certificate", &[]).await;
    is_refused(&nats, &[], "invalid peer certificate", &[]).await;
    let nats = nats_with(&config("elsewhere")).await;
    is_refused(&nats, &[("CENTRAL_HUB_NATS_TLS_CA", &ca)], "not valid for name", &[]).await;
    // A server without TLS, where it was asked for.
    let nats = nats_with("").await;
    is_refused(&nats, &[("CENTRAL_HUB_NATS_TLS_REQUIRED", "true")], "doesn't speak TLS", &[]).await;
}

#[tokio::test]
async fn mutual_tls() {
    let certificates = Certificates::make();
    let [ca, certificate, key] = ["ca.pem", "client.pem", "client.key"].map(|file| certificates.text(file));
    let [server_certificate, server_key] = ["server.pem", "server.key"].map(|file| certificates.text(file));
    let nats = nats_with(&format!(
        "tls {{ cert_file: {server_certificate:?}, key_file: {server_key:?}, ca_file: {ca:?}, verify: true }}"
    ))
    .await;
    let ca = ("CENTRAL_HUB_NATS_TLS_CA", ca.as_str());
    let own = [ca, ("CENTRAL_HUB_NATS_TLS_CERT", &certificate), ("CENTRAL_HUB_NATS_TLS_KEY", &key)];
    serves(&nats, &own).await;
    is_refused(&nats, &[ca], "CertificateRequired", &[]).await;
    let [certificate, key] = ["stranger.pem", "stranger.key"].map(|file| certificates.text(file));
    let others = [ca, ("CENTRAL_HUB_NATS_TLS_CERT", certificate.as_str()), ("CENTRAL_HUB_NATS_TLS_KEY", &key)];
    is_refused(&nats, &others, "fatal alert", &[]).await;
}

#[tokio::test]
async fn options_that_cannot_be_used_are_told_at_once() {
    let options = HubOptions::on("nats://127.0.0.1:1", "postgres://127.0.0.1:1/none");
    let folder = tempfile::tempdir().unwrap();
    let file = secret_file(folder.path(), "secret", "open_barley");
    for (env, complaint) in [
        (&[("CENTRAL_HUB_NATS_USER", "hub")][..], "CENTRAL_HUB_NATS_PASSWORD isn't"),
        (&[("CENTRAL_HUB_NATS_PASSWORD", "open_barley")], "CENTRAL_HUB_NATS_USER isn't"),
        (&[("CENTRAL_HUB_NATS_URL", "nats://hub:open_barley@127.0.0.1:1")], "CENTRAL_HUB_NATS_USER"),
        (&[("CENTRAL_HUB_NATS_TOKEN", "open_barley"), ("CENTRAL_HUB_NATS_TOKEN_FILE", &file)], "both set"),
        (&[("CENTRAL_HUB_NATS_NKEY_SEED", "open_barley")], "no user's seed"),
        (&[("CENTRAL_HUB_NATS_TOKEN_FILE", "/no/such/file")], "/no/such/file"),
        (&[("CENTRAL_HUB_NATS_CREDS", "/no/such/file")], "/no/such/file"),
        (&[("CENTRAL_HUB_NATS_TLS_CA", "/no/such/file")], "/no/such/file"),
        (&[("CENTRAL_HUB_NATS_INBOX_PREFIX", "_INBOX.>")], "plain subject"),
    ] {
        let output = ask_health(&options, env);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(complaint) && !said.contains("open_barley"), "{said}");
    }
}
