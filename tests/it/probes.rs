//! Infrastructure probes on real components: up, down, hanging, with wrong credentials, slow.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use central_hub::cli::roles::{ANSWERS, Roles, WRITES};
use central_hub::cli::stack::Postgres;
use central_hub::domain::infra::Component;

use central_hub::hub::probe::{Environment, Outcome, ProbeContext, check};
use central_hub::nats::NatsOptions;
use central_hub::store::DatabaseOptions;
use central_hub::wire::registry::DependencyStatus::{self, Degraded, Down, Healthy, Unknown};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::ask::Hub;
use crate::certificates::Certificates;
use crate::components::{
    Silence, clickhouse, delayed, encrypted, endless, free_port, kafka, parrot, plain_before, program, redis,
    redis_with_tls,
};
use crate::stack::{eventually, private_nats_with, private_postgres, scratch};
use crate::witness::SOON;

/// A password that no message may hold, with what breaks a URL.
const PASSWORD: &str = "hush/hu@sh:9?";

/// The hub's environment, with the right password and with a wrong one.
const RIGHT: &[(&str, &str)] = &[("CENTRAL_HUB_PROBE_P", PASSWORD)];
const WRONG: &[(&str, &str)] = &[("CENTRAL_HUB_PROBE_P", "hush")];

/// Longer than any probe of these tests needs, however busy the machine is.
const PATIENT: u64 = 20_000;

/// A hub's view with these variables; its own servers are nowhere.
fn context(variables: &[(&str, &str)]) -> ProbeContext {
    let database = DatabaseOptions::from_parts("127.0.0.1", 1, "x", "x", None);
    ProbeContext::new(database, NatsOptions::default(), environment(variables))
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn component(item: Value) -> Component {
    serde_json::from_value(item).unwrap()
}

/// Probes a target of a kind with patience.
async fn ask(kind: &str, target: &str) -> Outcome {
    ask_with(&[], json!({ "kind": kind, "target": target })).await
}

/// Probes with these variables in the hub's environment.
async fn ask_with(variables: &[(&str, &str)], mut item: Value) -> Outcome {
    let given = item.as_object_mut().unwrap();
    given.entry("name").or_insert("c".into());
    given.entry("timeout_ms").or_insert(PATIENT.into());
    given.entry("degraded_ms").or_insert(PATIENT.into());
    // Its future can be sent to another thread, as a hub does.
    let (component, context) = (component(item), context(variables));
    let outcome = tokio::spawn(async move { check(&component, &context).await }).await.unwrap();
    consistent(outcome)
}

/// What holds for every outcome.
fn consistent(outcome: Outcome) -> Outcome {
    let shown = format!("{outcome:?}");
    assert!(!shown.contains("hush"), "no message holds a credential: {shown}");
    let answered = matches!(outcome.status, Healthy | Degraded);
    assert_eq!(outcome.response_time_ms.is_some(), answered, "{shown}");
    assert!(outcome.response_time_ms.is_none_or(|took| took > 0.0), "{shown}");
    assert_eq!(outcome.error_message.is_some(), outcome.status != Healthy, "{shown}");
    outcome
}

#[track_caller]
fn is(outcome: &Outcome, status: DependencyStatus, said: &str) {
    assert_eq!(outcome.status, status, "{outcome:?}");
    let message = outcome.error_message.as_deref().unwrap_or_default();
    assert!(message.contains(said) && message.is_empty() == said.is_empty(), "{outcome:?}, expected {said:?}");
}

/// Probes a component that stands still: it is down after its timeout, and not much later.
async fn hangs(variables: &[(&str, &str)], mut item: Value) {
    item["timeout_ms"] = json!(300);
    item["degraded_ms"] = json!(300);
    let asked = Instant::now();
    is(&ask_with(variables, item.clone()).await, Down, "no answer within 300 ms");
    assert!(asked.elapsed() >= Duration::from_millis(300) && asked.elapsed() < SOON, "{item}");
}

/// Probes a component through a delay that makes it slower than its threshold.
async fn is_slow(port: u16, target: impl Fn(u16) -> Value) {
    let (port, _task) = delayed(port, Duration::from_millis(60)).await;
    let mut item = target(port);
    item["degraded_ms"] = json!(50);
    let outcome = ask_with(RIGHT, item).await;
    is(&outcome, Degraded, "slower than 50 ms");
    assert!(outcome.response_time_ms.is_some_and(|took| took > 50.0), "{outcome:?}");
}

/// A component of a kind. In its target, PASSWORD stands for a reference to the password and PORT for a port.
fn at(kind: &str, target: &str, port: u16) -> Value {
    let target = target.replace("PASSWORD", "${env:CENTRAL_HUB_PROBE_P}").replace("PORT", &port.to_string());
    json!({ "kind": kind, "target": target })
}

/// An address that nobody listens on.
fn nowhere() -> String {
    format!("127.0.0.1:{}", free_port())
}

#[tokio::test]
async fn what_nobody_listens_on_is_down() {
    let address = nowhere();
    for (kind, target) in [
        ("postgresql", format!("postgresql://u@{address}/x")),
        ("nats", format!("nats://{address}")),
        ("kafka", address.clone()),
        ("kafka", format!("kafka://u:${{env:CENTRAL_HUB_PROBE_P}}@{address},{address}")),
        ("clickhouse", format!("http://{address}")),
        ("redis", format!("redis://:${{env:CENTRAL_HUB_PROBE_P}}@{address}")),
        ("redis", format!("rediss://{address}")),
        ("http", format!("https://{address}/x")),
        ("tcp", address.clone()),
    ] {
        let outcome = ask_with(RIGHT, json!({ "kind": kind, "target": target })).await;
        is(&outcome, Down, "connection refused");
    }
    for kind in ["nats", "kafka", "clickhouse", "redis", "http", "tcp", "postgresql"] {
        let host = "no-such-host.invalid";
        let target = match kind {
            "clickhouse" | "http" => format!("http://{host}"),
            "kafka" | "tcp" => format!("{host}:1"),
            _ => format!("{kind}://{host}"),
        };
        is(&ask(kind, &target).await, Down, "its host name can't be resolved");
    }
}

#[tokio::test]
async fn what_the_hub_was_not_told_is_unknown_and_never_down() {
    for (item, variables, said) in [
        (json!({ "name": "kafka" }), &[][..], "CENTRAL_HUB_KAFKA_BROKERS"),
        (json!({ "name": "clickhouse" }), &[], "CENTRAL_HUB_CLICKHOUSE_URL"),
        (json!({ "name": "redis" }), &[], "CENTRAL_HUB_REDIS_URL"),
        (json!({ "kind": "tcp" }), &[], "no target"),
        (
            json!({ "kind": "http", "target": "http://${env:CENTRAL_HUB_PROBE_X}" }),
            &[],
            "CENTRAL_HUB_PROBE_X is not set",
        ),
        (json!({ "name": "kafka" }), &[("CENTRAL_HUB_KAFKA_BROKERS", "no port here,")], "its target can't be read"),
        (json!({ "name": "redis" }), &[("CENTRAL_HUB_REDIS_URL", "redis+unix:///hush")], "its target can't be read"),
        (json!({ "name": "clickhouse" }), &[("CENTRAL_HUB_CLICKHOUSE_URL", "hush:8123")], "its target can't be read"),
        (
            json!({ "kind": "postgresql", "target": "${env:CENTRAL_HUB_PROBE_U}" }),
            &[("CENTRAL_HUB_PROBE_U", "hush")],
            "its target can't be read",
        ),
        (
            json!({ "kind": "nats", "target": "${env:CENTRAL_HUB_PROBE_U}" }),
            &[("CENTRAL_HUB_PROBE_U", "nats://:")],
            "its target can't be read",
        ),
    ] {
        is(&ask_with(variables, item).await, Unknown, said);
    }
}

/// Each kind against a peer that accepts and says nothing: the probe ends with its timeout, and no connection or
/// task is left of it.
#[tokio::test]
async fn a_peer_that_hangs_costs_nothing() {
    let silence = Silence::listen().await;
    let address = format!("127.0.0.1:{}", silence.port);
    let credentials = "u:${env:CENTRAL_HUB_PROBE_P}";
    let variables = [("CENTRAL_HUB_PROBE_P", PASSWORD)];
    let hub = ProbeContext::new(
        DatabaseOptions::from_parts("127.0.0.1", silence.port, "x", "x", None),
        NatsOptions { urls: vec![format!("nats://{address}")], ..NatsOptions::default() },
        environment(&variables),
    );
    let items = [
        json!({ "name": "postgresql" }),
        json!({ "name": "nats" }),
        json!({ "kind": "postgresql", "target": format!("postgresql://{credentials}@{address}/x?sslmode=require") }),
        json!({ "kind": "nats", "target": format!("nats://{credentials}@{address}") }),
        json!({ "kind": "kafka", "target": address }),
        json!({ "kind": "kafka", "target": format!("kafka://{credentials}@{address},{address}") }),
        json!({ "kind": "kafka", "target": format!("kafka+ssl://{address}") }),
        json!({ "kind": "clickhouse", "target": format!("http://{credentials}@{address}") }),
        json!({ "kind": "redis", "target": format!("redis://{address}") }),
        json!({ "kind": "redis", "target": format!("redis://{credentials}@{address}") }),
        json!({ "kind": "redis", "target": format!("rediss://{address}") }),
        json!({ "kind": "http", "target": format!("http://{address}") }),
        json!({ "kind": "http", "target": format!("https://{address}") }),
    ];
    let components = items.map(|mut item| {
        let given = item.as_object_mut().unwrap();
        given.entry("name").or_insert("c".into());
        given.insert("timeout_ms".into(), 100.into());
        component(item)
    });
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for _ in 0..10 {
        let outcomes = components.iter().map(|component| check(component, &hub));
        for outcome in futures_util::future::join_all(outcomes).await {
            is(&consistent(outcome), Down, "no answer within 100 ms");
        }
    }
    // Given up in the middle, as at the end of a hub.
    for component in &components {
        let _ = timeout(Duration::from_millis(20), check(component, &hub)).await;
    }
    eventually(SOON, || async {
        let ((opened, open), tasks) = (silence.counts(), tasks());
        let gone = opened > components.len() && open == 0 && tasks <= before;
        if gone { Ok(()) } else { Err(format!("{open} of {opened} connections, {tasks} tasks, {before} before")) }
    })
    .await;
}

/// A port whose system accepts nothing more: not even a connection comes about.
#[tokio::test]
async fn a_connection_that_hangs_is_given_up() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    let _listener = socket.listen(1).unwrap();
    let mut filling = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(200), TcpStream::connect(address)).await {
        filling.push(connected.unwrap());
        assert!(filling.len() < 10, "the queue takes more than it was made for");
    }
    for (kind, target) in
        [("tcp", address.to_string()), ("redis", format!("redis://{address}")), ("kafka", address.to_string())]
    {
        hangs(&[], json!({ "kind": kind, "target": target })).await;
    }
}

/// What speaks another protocol, or too much, is down; it neither confuses the hub nor makes it swell.
#[tokio::test]
async fn a_peer_that_talks_nonsense_is_down() {
    let http = |rest: &str| format!("HTTP/1.1 {rest}").into_bytes();
    let huge = [b"\x7f\xff\xff\xff".as_slice(), &[7; 100_000]].concat();
    for answer in [
        b"-ERR unknown\r\n".to_vec(),
        b"\0\0\0\x0c\0\0\0\x01\x7f\xff\xff\xff\0\0\0\0".to_vec(),
        b"*1000000000\r\n*1000000000\r\n".to_vec(),
        b"$536870912\r\n".iter().copied().chain(std::iter::repeat_n(b'x', 1_000_000)).collect(),
        http("200 OK\r\ncontent-length: 3\r\n\r\nno\n"),
        http("404 Not Found\r\ncontent-length: 0\r\n\r\n"),
        b"INFO {}\r\n".to_vec(),
        huge,
    ] {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(20)]).into_owned();
        let (port, _task) = parrot(answer).await;
        let address = format!("127.0.0.1:{port}");
        let kinds = [
            ("postgresql", format!("postgresql://u@{address}/x")),
            ("nats", format!("nats://{address}")),
            ("kafka", address.clone()),
            ("clickhouse", format!("http://{address}")),
            ("redis", format!("redis://{address}")),
            ("redis", format!("redis://:${{env:CENTRAL_HUB_PROBE_P}}@{address}")),
            ("redis", format!("rediss://{address}")),
        ];
        let asked = kinds.map(|(kind, target)| async move {
            let item = json!({ "kind": kind, "target": target, "timeout_ms": 1_000, "degraded_ms": 1_000 });
            (kind, ask_with(RIGHT, item).await)
        });
        for (kind, outcome) in join_all(asked).await {
            assert_eq!(outcome.status, Down, "{kind} {shown:?}: {outcome:?}");
            let said = outcome.error_message.unwrap_or_default();
            assert!(
                !said.is_empty() && !said.contains("other error") && !said.contains("unexpected"),
                "{kind} {shown:?}: {said}"
            );
        }
    }
}

/// A peer that never ends its line, at the start or once it was trusted: it neither fills the hub's memory nor outlasts the
/// timeout.
#[tokio::test]
async fn a_nats_that_never_ends_its_line_is_down() {
    let info = "INFO {\"jetstream\":true}\r\n";
    for (begin, then, turns) in [
        ("INFO {\"a\":\"", "", 0),
        ("-ERR '", "", 0),
        ("", "", 0),
        (info, "INFO {\"a\":\"", 1),
        (info, "PONG\r\n", 1),
        (info, "PONG\r\nMSG a 1 1000000000000\r\n", 1),
        (info, "PONG\r\nHMSG a 1 18446744073709551615 18446744073709551615\r\n", 1),
    ] {
        let (port, sent, _task) = endless(begin, then, turns).await;
        let asked = Instant::now();
        let target = format!("nats://127.0.0.1:{port}");
        let item = json!({ "kind": "nats", "target": target, "timeout_ms": 1_000, "degraded_ms": 1_000 });
        let outcome = ask_with(&[], item).await;
        assert_eq!(outcome.status, Down, "{begin:?} {then:?}: {outcome:?}");
        assert!(asked.elapsed() < SOON, "{begin:?} {then:?}: {:?}", asked.elapsed());
        // What the system buffers counts, too.
        let sent = sent.load(Ordering::Relaxed);
        assert!(sent < 32 * 1024 * 1024, "{begin:?} {then:?}: took {sent} bytes");
    }
}

#[tokio::test]
async fn postgresql_up_slow_refusing_hanging_and_down() {
    let mut postgres = private_postgres().await;
    let port = postgres.port();
    let own = ProbeContext::new(
        DatabaseOptions::from_url(&postgres.url()).unwrap(),
        NatsOptions::default(),
        Environment::default(),
    );
    let hubs = component(json!({ "name": "postgresql", "timeout_ms": PATIENT, "degraded_ms": PATIENT }));
    is(&consistent(check(&hubs, &own).await), Healthy, "");

    let (client, connection) = tokio_postgres::connect(&postgres.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(&format!("CREATE ROLE reader LOGIN PASSWORD '{PASSWORD}'")).await.unwrap();
    let target = |port| at("postgresql", "postgresql://reader:PASSWORD@127.0.0.1:PORT/central_hub", port);
    is(&ask_with(RIGHT, target(port)).await, Healthy, "");
    is(&ask_with(WRONG, target(port)).await, Down, "password authentication failed");
    is(
        &ask("postgresql", &format!("postgresql://reader@127.0.0.1:{port}/central_hub")).await,
        Down,
        "password missing",
    );
    let other = at("postgresql", "postgresql://reader:PASSWORD@127.0.0.1:PORT/nosuch", port);
    is(&ask_with(RIGHT, other).await, Down, "database \"nosuch\" does not exist");
    is_slow(port, target).await;
    // A probe leaves nothing behind: one connection, ours, is left.
    eventually(SOON, || async {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'";
        client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;

    postgres.pause().await;
    hangs(RIGHT, target(port)).await;
    postgres.resume();
    postgres.stop().await;
    is(&consistent(check(&hubs, &own).await), Down, "connection refused");
    postgres.restart().await.unwrap();
    is(&consistent(check(&hubs, &own).await), Healthy, "");
}

#[tokio::test]
async fn nats_up_slow_refusing_hanging_and_down() {
    let users = "authorization { users: [ {user: probe, password: $PROBE_P, permissions: {}} ] }";
    let users = users.replace("$PROBE_P", &format!("\"{PASSWORD}\""));
    let mut nats = private_nats_with(&users).await;
    let port = nats.port();
    let target = |port| at("nats", "nats://probe:PASSWORD@127.0.0.1:PORT", port);
    is(&ask_with(RIGHT, target(port)).await, Healthy, "");
    is(&ask_with(WRONG, target(port)).await, Down, "it refused the credentials");
    is(&ask("nats", &format!("nats://127.0.0.1:{port}")).await, Down, "it refused the credentials");
    let list = format!("nats://{},nats://probe:PASSWORD@127.0.0.1:PORT", nowhere());
    is(&ask_with(RIGHT, at("nats", &list, port)).await, Healthy, "");
    is_slow(port, target).await;

    let own = |user: &str, password: &str| {
        let urls = vec![format!("nats://{}", nowhere()), format!("nats://127.0.0.1:{port}")];
        let (user, password) = (Some(user.to_owned()), Some(password.to_owned()));
        let nats = NatsOptions { urls, user, password, ..NatsOptions::default() };
        ProbeContext::new(DatabaseOptions::from_parts("x", 1, "x", "x", None), nats, Environment::default())
    };
    let hubs = component(json!({ "name": "nats", "timeout_ms": PATIENT, "degraded_ms": PATIENT }));
    is(&consistent(check(&hubs, &own("probe", PASSWORD)).await), Healthy, "");
    is(&consistent(check(&hubs, &own("probe", "hush")).await), Down, "it refused the credentials");

    nats.pause().await;
    hangs(RIGHT, target(port)).await;
    nats.resume();
    nats.stop().await;
    is(&ask_with(RIGHT, target(port)).await, Down, "connection refused");
    nats.restart().await.unwrap();
    is(&ask_with(RIGHT, target(port)).await, Healthy, "");
}

/// The hub can't do without JetStream, and another NATS can.
#[tokio::test]
async fn the_hubs_own_nats_needs_jetstream() {
    let accounts = r#"accounts {
        WITH { jetstream: enabled, users: [ {user: with, password: p} ] }
        WITHOUT { users: [ {user: without, password: p} ] }
    }"#;
    let nats = private_nats_with(accounts).await;
    let hubs = component(json!({ "name": "nats", "timeout_ms": PATIENT, "degraded_ms": PATIENT }));
    let own = |user: &str| NatsOptions {
        urls: vec![nats.url()],
        user: Some(user.into()),
        password: Some("p".into()),
        ..NatsOptions::default()
    };
    let own = |user: &str| {
        ProbeContext::new(DatabaseOptions::from_parts("x", 1, "x", "x", None), own(user), Environment::default())
    };
    is(&check(&hubs, &own("with")).await, Healthy, "");
    is(&check(&hubs, &own("without")).await, Down, "JetStream is not enabled for the hub's account");
    for user in ["with", "without"] {
        let target = format!("nats://{user}:${{env:CENTRAL_HUB_PROBE_P}}@127.0.0.1:{}", nats.port());
        let item = json!({ "kind": "nats", "target": target });
        is(&ask_with(&[("CENTRAL_HUB_PROBE_P", "p")], item).await, Healthy, "");
    }
}

/// As the users that ship: the one that writes may ask, and the one that answers is told what it lacks.
#[tokio::test]
async fn the_users_that_ship_may_probe_nats() {
    let roles = Roles::generate().unwrap();
    let nats = private_nats_with(&roles.config()).await;
    let hubs = component(json!({ "name": "nats", "timeout_ms": PATIENT, "degraded_ms": PATIENT }));
    for (user, status, said) in [(WRITES, Healthy, ""), (ANSWERS, Degraded, "$JS.API.INFO")] {
        let options = NatsOptions {
            urls: vec![nats.url()],
            user: Some(user.into()),
            password: roles.password(user).map(str::to_owned),
            inbox_prefix: Some(format!("_INBOX.{user}")),
            ..NatsOptions::default()
        };
        let database = DatabaseOptions::from_parts("x", 1, "x", "x", None);
        is(&check(&hubs, &ProbeContext::new(database, options, Environment::default())).await, status, said);
    }
}

#[tokio::test]
async fn redis_up_slow_refusing_hanging_and_down() {
    let (Some(mut open), Some(mut guarded)) = (redis(None).await, redis(Some(PASSWORD)).await) else { return };
    is(&ask("redis", &format!("redis://127.0.0.1:{}", open.port)).await, Healthy, "");
    let by_name = [("CENTRAL_HUB_REDIS_URL", format!("redis://127.0.0.1:{}/2", open.port))];
    let by_name = by_name.each_ref().map(|(name, url)| (*name, url.as_str()));
    is(&ask_with(&by_name, json!({ "name": "redis" })).await, Healthy, "");

    let target = |port| at("redis", "redis://:PASSWORD@127.0.0.1:PORT", port);
    let port = guarded.port;
    is(&ask_with(RIGHT, target(port)).await, Healthy, "");
    is(&ask_with(WRONG, target(port)).await, Down, "it refused the credentials");
    is(&ask("redis", &format!("redis://127.0.0.1:{port}")).await, Down, "it wants credentials");
    is(&ask("redis", &format!("redis://127.0.0.1:{}/99", open.port)).await, Down, "DB index is out of range");
    is_slow(port, target).await;
    is_slow(open.port, |port| at("redis", "redis://127.0.0.1:PORT", port)).await;

    guarded.pause().await;
    hangs(RIGHT, target(port)).await;
    guarded.resume();
    guarded.stop().await;
    is(&ask_with(RIGHT, target(port)).await, Down, "connection refused");
    guarded.restart().await;
    is(&ask_with(RIGHT, target(port)).await, Healthy, "");
    open.stop().await;
    guarded.stop().await;
}

#[tokio::test]
async fn clickhouse_up_slow_refusing_hanging_and_down() {
    let Some(mut clickhouse) = clickhouse(PASSWORD).await else { return };
    let port = clickhouse.port;
    let target = |port| at("clickhouse", "http://default:PASSWORD@127.0.0.1:PORT/?database=default", port);
    is(&ask_with(RIGHT, target(port)).await, Healthy, "");
    let url = format!("http://127.0.0.1:{port}/?user=default&password=hush%2Fhu%40sh%3A9%3F");
    is(&ask_with(&[("CENTRAL_HUB_CLICKHOUSE_URL", &url)], json!({ "name": "clickhouse" })).await, Healthy, "");
    is(&ask_with(WRONG, target(port)).await, Down, "it refused the credentials: HTTP 401");
    is(&ask("clickhouse", &format!("http://127.0.0.1:{port}")).await, Down, "it refused the credentials: HTTP 401");
    is_slow(port, target).await;
    // It also is an HTTP server like any other.
    is(&ask("http", &format!("http://127.0.0.1:{port}/ping")).await, Healthy, "");
    is(&ask("http", &format!("http://127.0.0.1:{port}/nosuch")).await, Down, "HTTP 404");
    let ping = |port| at("http", "http://127.0.0.1:PORT/ping", port);
    is_slow(port, ping).await;
    is(&ask("tcp", &format!("127.0.0.1:{port}")).await, Healthy, "");

    clickhouse.pause().await;
    hangs(RIGHT, target(port)).await;
    hangs(&[], ping(port)).await;
    clickhouse.resume();
    clickhouse.stop().await;
    is(&ask_with(RIGHT, target(port)).await, Down, "connection refused");
    clickhouse.restart().await;
    is(&ask_with(RIGHT, target(port)).await, Healthy, "");
    clickhouse.stop().await;
}

#[tokio::test]
async fn kafka_up_slow_hanging_and_down() {
    let Some(mut broker) = kafka(&[]).await else { return };
    let port = broker.port;
    let target = |port| at("kafka", "127.0.0.1:PORT", port);
    is(&ask_with(&[], target(port)).await, Healthy, "");
    let brokers = format!("{},127.0.0.1:{port}", nowhere());
    is(&ask_with(&[("CENTRAL_HUB_KAFKA_BROKERS", &brokers)], json!({ "name": "kafka" })).await, Healthy, "");
    is_slow(port, target).await;

    broker.pause().await;
    hangs(&[], target(port)).await;
    broker.resume();
    broker.stop().await;
    is(&ask_with(&[], target(port)).await, Down, "connection refused");
    broker.restart().await;
    is(&ask_with(&[], target(port)).await, Healthy, "");
    broker.stop().await;
}

#[tokio::test]
async fn kafka_with_credentials() {
    let Some(mut guarded) = kafka(&["--authentication".to_owned()]).await else { return };
    let target = |port| at("kafka", "kafka://probe:PASSWORD@127.0.0.1:PORT", port);
    // SCRAM: this broker knows nobody.
    is(&ask_with(RIGHT, target(guarded.port)).await, Down, "it refused the credentials");
    let without = ask("kafka", &format!("127.0.0.1:{}", guarded.port)).await;
    is(&without, Down, "does it want TLS or credentials?");
    guarded.stop().await;

    // PLAIN, in front of a broker that asks for nothing.
    let Some(mut broker) = kafka(&[]).await else { return };
    let (port, _task) = plain_before(broker.port, "probe", PASSWORD).await;
    is(&ask_with(RIGHT, target(port)).await, Healthy, "");
    is(&ask_with(WRONG, target(port)).await, Down, "it refused the credentials");
    is(&ask("kafka", &format!("127.0.0.1:{port}")).await, Down, "does it want TLS or credentials?");
    broker.stop().await;
}

#[tokio::test]
async fn http_answers() {
    for (head, status, said) in [
        ("200 OK", Healthy, ""),
        ("204 No Content", Healthy, ""),
        ("302 Found\r\nlocation: http://127.0.0.1:1/", Healthy, ""),
        ("304 Not Modified", Healthy, ""),
        ("401 Unauthorized", Down, "it refused the credentials: HTTP 401"),
        ("404 Not Found", Down, "HTTP 404"),
        ("500 Internal Server Error", Down, "HTTP 500"),
        ("503 Service Unavailable\r\nx: hush", Down, "HTTP 503"),
    ] {
        let (port, _task) =
            parrot(format!("HTTP/1.1 {head}\r\ncontent-length: 10000000\r\n\r\nhush").into_bytes()).await;
        is(&ask_with(RIGHT, at("http", "http://u:PASSWORD@127.0.0.1:PORT/x?y=z", port)).await, status, said);
    }
    let (port, _task) = parrot(b"+PONG\r\n".to_vec()).await;
    is(&ask("http", &format!("http://127.0.0.1:{port}")).await, Down, "its answer is no HTTP");
}

/// With certificates of an authority of one's own.
#[tokio::test]
async fn tls_is_verified() {
    let certificates = Certificates::make();
    let [ca, stranger] = ["ca.pem", "stranger.pem"].map(|file| certificates.text(file));
    certificates.give_key_to_servers("server.key");
    let (certificate, key) = (certificates.text("server.pem"), certificates.text("server.key"));
    let options = scratch();
    let mut postgres = options.postgres();
    postgres.folder = options.data_dir;
    let settings = [("ssl", "on"), ("ssl_cert_file", &certificate), ("ssl_key_file", &key)];
    postgres.settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let postgres = Postgres::start(postgres).await.unwrap();
    let nats = private_nats_with(&format!("tls {{ cert_file: \"{certificate}\", key_file: \"{key}\" }}")).await;
    let mut targets = vec![
        ("postgresql", postgres.url() + "?sslmode=verify-full"),
        ("nats", format!("tls://localhost:{}", nats.port())),
    ];
    let (redis, broker, clickhouse) = (redis_with_tls(&certificates).await, kafka(&[]).await, clickhouse("").await);
    targets.extend(redis.as_ref().map(|redis| ("redis", format!("rediss://localhost:{}", redis.port))));
    let mut fronts = Vec::new();
    if let Some(broker) = &broker {
        let (port, front) = encrypted(broker.port, &certificates).await;
        targets.push(("kafka", format!("kafka+ssl://localhost:{port}")));
        fronts.push(front);
    }
    if let Some(clickhouse) = &clickhouse {
        let (port, front) = encrypted(clickhouse.port, &certificates).await;
        targets.extend(["clickhouse", "http"].map(|kind| (kind, format!("https://localhost:{port}"))));
        fronts.push(front);
    }
    for (kind, target) in &targets {
        let variables = |ca| [("CENTRAL_HUB_PROBE_T", target.as_str()), ("CENTRAL_HUB_PROBE_TLS_CA", ca)];
        let item = json!({ "kind": kind, "target": "${env:CENTRAL_HUB_PROBE_T}" });
        is(&ask_with(&variables(ca.as_str()), item.clone()).await, Healthy, "");
        is(&ask_with(&variables(stranger.as_str()), item.clone()).await, Down, "invalid peer certificate");
        // The system's certificates don't hold this authority's.
        is(&ask_with(&variables(stranger.as_str())[..1], item.clone()).await, Down, "invalid peer certificate");
        is(&ask_with(&variables("/no/such/file"), item).await, Unknown, "CENTRAL_HUB_PROBE_TLS_CA");
    }
    for mut server in [redis, broker, clickhouse].into_iter().flatten() {
        server.stop().await;
    }
}

/// What the hub's own settings say of components is checked when it is set, and told with its place.
#[tokio::test]
async fn components_are_checked_when_they_are_set() {
    let hub = Hub::fresh().await;
    let place = "/operational/health_monitoring/infrastructure_components";
    let body = |items: Value| {
        let config = json!({ "operational": { "health_monitoring": { "infrastructure_components": items } } });
        json!({ "config": config, "dry_run": true })
    };
    let fine = json!([
        "postgresql",
        { "name": "nats" },
        { "name": "cache", "kind": "redis", "target": "redis://:${env:CENTRAL_HUB_PROBE_CACHE}@cache:6379",
          "timeout_ms": 500, "degraded_ms": 100, "critical": true },
    ]);
    hub.ask("config.set.central-hub", body(fine)).await;
    for (items, path) in [
        (json!(["mysql"]), "/0"),
        (json!(["nats", "nats"]), "/1"),
        (json!([{ "name": "cache", "target": "redis://cache" }]), "/0/kind"),
        (json!([{ "name": "cache", "kind": "redis", "target": "cache:6379" }]), "/0/target"),
        (json!([{ "name": "cache", "kind": "http", "target": "http://${env:CENTRAL_HUB_DB_PASSWORD}" }]), "/0/target"),
        (json!([{ "name": "cache", "kind": "redis", "timeout_ms": 10 }]), "/0/timeout_ms"),
        (json!([{ "name": "cache", "kind": "redis", "target": "redis://cache:0" }]), "/0/target"),
        (json!([{ "name": "central-hub", "kind": "tcp", "target": "cache:1" }]), "/0/name"),
    ] {
        let told = hub.refused("config.set.central-hub", body(items.clone()), "schema_violation", "config").await;
        let places = told["violations"].as_array().unwrap().iter().map(|violation| violation["path"].as_str().unwrap());
        assert_eq!(places.collect::<Vec<_>>(), [format!("{place}{path}")], "{items}");
    }
    let credentials = [
        ("redis", "redis://:hush@cache"),
        ("redis", "redis://c?password=hush"),
        ("redis", "redis://:hush${env:CENTRAL_HUB_PROBE_X}@c"),
        ("redis", "redis://hush@c"),
        ("http", "http://c/?passw%6Frd=hush"),
        ("http", "http://c/?token=hush"),
        ("http", "http://hush@c/"),
        ("http", "http:\\\\u:hush@c/"),
        ("tcp", "u:hush@127.0.0.1:1"),
        ("kafka", "u:hush@127.0.0.1:1"),
        ("kafka", "u:hush@127.0.0.1:0"),
    ];
    for (kind, target) in credentials {
        let items = json!([{ "name": "cache", "kind": kind, "target": target }]);
        // Nobody can vouch for a target.
        let mut vouched = body(items.clone());
        vouched["not_secret"] = json!([format!("{place}/0/target")]);
        hub.refused("config.set.central-hub", vouched, "secret_detected", "config").await;
        let told = hub.refused("config.set.central-hub", body(items), "secret_detected", "config").await;
        assert_eq!(told["paths"], json!([format!("{place}/0/target")]), "{target}");
        assert!(!told.to_string().contains("hush"), "{told}");
    }
}

/// Without what `deploy/setup.sh --components` brings, CI would test less than it says.
#[test]
fn ci_has_every_component() {
    for name in ["redis-server", "clickhouse-server", "tansu"] {
        program(name);
    }
}
