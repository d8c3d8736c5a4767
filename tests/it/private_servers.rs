//! The private servers: their data outlasts a stop and a kill, their folders are safe, their errors say what to do.

use std::path::Path;
use std::time::Duration;

use central_hub::cli::servers;
use central_hub::cli::stack::{GuardedCommand, GuardedProcess, NatsServer, Stack, StackError, StackOptions};
use tokio::time::timeout;
use tokio_postgres::NoTls;

use crate::stack::{HubOptions, eventually, executable, nats, private_nats, private_postgres, scratch, shared};

async fn postgres(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn put(nats_url: &str, value: &str) {
    let jetstream = async_nats::jetstream::new(async_nats::connect(nats_url).await.unwrap());
    let config = async_nats::jetstream::kv::Config { bucket: "kept".to_owned(), ..Default::default() };
    jetstream.create_key_value(config).await.unwrap().put("key", value.to_owned().into()).await.unwrap();
}

async fn get(nats_url: &str) -> String {
    let jetstream = async_nats::jetstream::new(async_nats::connect(nats_url).await.unwrap());
    let value = jetstream.get_key_value("kept").await.unwrap().get("key").await.unwrap().expect("the key is there");
    String::from_utf8(value.to_vec()).unwrap()
}

fn options(folder: &Path) -> StackOptions {
    StackOptions { fsync: false, ..StackOptions::new(executable(), folder) }
}

#[tokio::test]
async fn a_second_start_finds_its_data_and_its_ports() {
    let folder = tempfile::tempdir().unwrap();
    let first = Stack::start(options(folder.path())).await.unwrap();
    let addresses = (first.nats_url(), first.database_url());
    postgres(&addresses.1).await.batch_execute("CREATE TABLE kept AS SELECT 42 AS answer").await.unwrap();
    put(&addresses.0, "value").await;

    let error = Stack::start(options(folder.path())).await.expect_err("the folder is taken");
    assert!(matches!(error, StackError::Locked { .. }), "{error}");
    first.stop().await;

    let second = Stack::start(options(folder.path())).await.unwrap();
    assert_eq!((second.nats_url(), second.database_url()), addresses);
    let row = postgres(&addresses.1).await.query_one("SELECT answer FROM kept", &[]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 42);
    assert_eq!(get(&addresses.0).await, "value");
    second.stop().await;
}

#[tokio::test]
async fn a_stack_that_was_let_go_leaves_no_process_and_no_scratch_folder() {
    let options = scratch();
    let stack = Stack::start(options.clone()).await.unwrap();
    assert!(options.data_dir.join("postgres/data").is_dir());
    drop(stack);
    eventually(Duration::from_secs(20), || async { !options.data_dir.exists() }).await;
}

#[tokio::test]
async fn postgres_can_be_killed_paused_and_restarted() {
    let mut server = private_postgres().await;
    let client = postgres(&server.url()).await;
    client.batch_execute("CREATE TABLE kept AS SELECT 42 AS answer").await.unwrap();

    server.pause().await;
    let silent = timeout(Duration::from_millis(300), client.query_one("SELECT answer FROM kept", &[])).await;
    assert!(silent.is_err(), "an open connection is paused too");
    server.resume();
    assert_eq!(client.query_one("SELECT answer FROM kept", &[]).await.unwrap().get::<_, i32>(0), 42);

    let (pid, url) = (server.pid(), server.url());
    server.kill9().await;
    assert_eq!(server.pid(), None);
    assert!(client.simple_query("SELECT 1").await.is_err());
    server.restart().await.unwrap();
    assert_ne!(server.pid(), pid);
    assert_eq!(server.url(), url);
    let client = postgres(&url).await;
    assert_eq!(client.query_one("SELECT answer FROM kept", &[]).await.unwrap().get::<_, i32>(0), 42);

    server.pause().await;
    server.restart().await.expect("a paused server can be stopped");
    server.stop().await;
    let folder = server.folder().to_path_buf();
    assert!(folder.exists(), "it may be started again");
    drop(server);
    assert!(!folder.exists(), "scratch");
}

#[tokio::test]
async fn nats_can_be_killed_paused_and_restarted() {
    let mut server = private_nats().await;
    let url = server.url();
    put(&url, "value").await;

    server.pause().await;
    let greeting = timeout(Duration::from_millis(300), async_nats::connect(&url)).await;
    assert!(!matches!(greeting, Ok(Ok(_))), "a paused server greets nobody");
    server.resume();
    assert_eq!(get(&url).await, "value");

    let pid = server.pid();
    server.kill9().await;
    server.restart().await.unwrap();
    assert_ne!(server.pid(), pid);
    assert_eq!(server.url(), url);
    assert_eq!(get(&url).await, "value");
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_ends_by_itself_is_noticed() {
    let mut stack = Stack::start(scratch()).await.unwrap();
    let pid = rustix::process::Pid::from_raw(stack.nats.pid().unwrap().cast_signed()).unwrap();
    assert!(timeout(Duration::from_millis(50), stack.failure()).await.is_err());
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let error = timeout(Duration::from_secs(10), stack.failure()).await.unwrap();
    assert!(matches!(error, StackError::Ended { server: "nats-server", .. }), "{error}");
}

#[tokio::test]
async fn a_folder_with_something_else_in_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("diary.txt"), "dear diary").unwrap();
    let error = Stack::start(options(folder.path())).await.expect_err("not ours");
    assert!(matches!(error, StackError::NotOurs { .. }), "{error}");
}

#[tokio::test]
async fn as_root_a_folder_that_the_servers_cannot_reach_is_refused() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let private = tempfile::tempdir().unwrap();
    std::fs::set_permissions(private.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let error = Stack::start(options(&private.path().join("data"))).await.expect_err("it lies below a 0700 folder");
    assert!(matches!(&error, StackError::Unreachable { barrier, .. } if barrier == private.path()), "{error}");
}

#[tokio::test]
async fn as_root_a_nats_server_that_its_user_cannot_execute_is_copied() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let private = tempfile::tempdir().unwrap();
    std::fs::set_permissions(private.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let program = private.path().join("nats-server");
    std::fs::copy(servers::nats_server(None).unwrap().path, &program).unwrap();
    let options = scratch();
    let mut nats = options.nats();
    nats.program = Some(program);
    let server = NatsServer::start(nats).await.unwrap();
    assert!(server.folder().join("nats-server").exists());
}

#[tokio::test]
async fn a_port_that_is_taken_and_a_configuration_that_is_wrong_are_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut options = scratch();
    options.nats_port = Some(port);
    let error = Stack::start(options.clone()).await.expect_err("the port is taken");
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    eventually(Duration::from_secs(20), || async { !options.data_dir.exists() }).await;

    let mut options = scratch();
    options.nats_config = "no_such_setting: 1".to_owned();
    let error = Stack::start(options.clone()).await.expect_err("the configuration is wrong");
    assert!(error.to_string().contains("no_such_setting"), "{error}");
    eventually(Duration::from_secs(20), || async { !options.data_dir.exists() }).await;
}

#[tokio::test]
async fn the_shared_servers_answer_and_give_each_test_a_database_of_its_own() {
    assert!(shared().nats.pid().is_some());
    let client = nats().await;
    client.flush().await.unwrap();
    let (one, other) = (HubOptions::fresh().await, HubOptions::fresh().await);
    assert_ne!(one.database_url, other.database_url);
    assert_ne!(one.prefix, other.prefix);
    postgres(&one.database_url).await.batch_execute("CREATE TABLE mine ()").await.unwrap();
    assert!(postgres(&other.database_url).await.batch_execute("SELECT FROM mine").await.is_err());
}

#[tokio::test]
async fn a_process_is_seen_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = GuardedCommand::new(executable(), Path::new("sh"), &folder.path().join("log"));
    command.args = vec!["-c".into(), "echo out; echo $WORD >&2; exit 3".into()];
    command.env = vec![("WORD".into(), "err".into())];
    let mut process = GuardedProcess::spawn(&command).await.unwrap();
    assert_eq!(process.ended().await, Some(3));
    assert!(!process.is_running());
    assert_eq!(std::fs::read_to_string(process.log()).unwrap(), "out\nerr\n");
}
