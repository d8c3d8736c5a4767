//! Real components for the tests of probes, which `deploy/setup.sh --components` brings: Redis, ClickHouse, and a
//! broker that speaks Kafka's protocol. And what stands between a probe and a component: silence, delay, encryption.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use central_hub::cli::stack::{GuardedCommand, GuardedProcess};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::certificates::Certificates;
use crate::stack::{eventually, executable};

/// How long a component may take to start on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A component's program in `.tools/bin` or on PATH. Without it the caller's test can't be run: that fails in CI, and
/// elsewhere it is told.
pub fn program(name: &str) -> Option<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = [tools]
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain(["/usr/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|program| program.is_file());
    if found.is_none() {
        let told = format!("{name} is missing: run `deploy/setup.sh --components`");
        assert!(std::env::var_os("CI").is_none_or(|ci| ci.is_empty()), "{told}");
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        // Past the test harness, which shows what a test says only when it fails.
        let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED: {test}, since {told}\n");
    }
    found
}

/// A port of loopback that is free, below those that the system gives to outgoing connections.
pub fn free_port() -> u16 {
    let is_free = |port: &u16| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    std::iter::repeat_with(|| fastrand::u16(15_000..32_000)).find(is_free).expect("an endless supply")
}

/// A component that runs as long as this lives.
pub struct Server {
    command: GuardedCommand,
    process: Option<GuardedProcess>,
    pub port: u16,
    /// Removed with the last of it.
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts a program and returns when it listens. `args` gets its folder and its port.
    async fn start<A>(program: PathBuf, args: A) -> Server
    where
        A: FnOnce(&Path, u16) -> Vec<String>,
    {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let mut command = GuardedCommand::new(executable(), &program, &folder.path().join("log"));
        command.args = args(folder.path(), port).into_iter().map(Into::into).collect();
        command.lock = Some(folder.path().to_path_buf());
        command.scratch = true;
        let mut server = Server { command, process: None, port, _folder: folder };
        server.restart().await;
        server
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.command.log).unwrap_or_default()
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.process = Some(GuardedProcess::spawn(&self.command).await.unwrap());
        eventually(START, || {
            let running = self.process.as_mut().is_some_and(GuardedProcess::is_running);
            assert!(running, "it ended while it started: {}", self.log());
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
        })
        .await;
    }

    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop().await;
        }
    }

    /// Stops it in its tracks: it accepts connections, as the system does that for it, and answers nothing.
    pub async fn pause(&mut self) {
        self.process.as_mut().expect("a running server").pause().await;
    }

    pub fn resume(&mut self) {
        self.process.as_mut().expect("a running server").resume();
    }
}

/// A Redis, with a password if there is one.
pub async fn redis(password: Option<&str>) -> Option<Server> {
    let program = program("redis-server")?;
    let args = |folder: &Path, port: u16| {
        let mut args = vec!["--port".into(), port.to_string(), "--bind".into(), "127.0.0.1".into()];
        args.extend(["--save", "", "--dir", folder.to_str().unwrap()].map(str::to_owned));
        if let Some(password) = password {
            args.extend(["--requirepass".into(), password.to_owned()]);
        }
        args
    };
    Some(Server::start(program, args).await)
}

/// A Redis that speaks TLS only.
pub async fn redis_with_tls(certificates: &Certificates) -> Option<Server> {
    let program = program("redis-server")?;
    let args = |folder: &Path, port: u16| {
        let (certificate, key) = (certificates.text("server.pem"), certificates.text("server.key"));
        let port = port.to_string();
        let args: [&str; 16] = [
            "--port",
            "0",
            "--tls-port",
            &port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            folder.to_str().unwrap(),
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-auth-clients",
            "no",
        ];
        let mut args: Vec<String> = args.map(str::to_owned).into();
        args.extend(["--tls-ca-cert-file".into(), certificates.text("ca.pem")]);
        args
    };
    Some(Server::start(program, args).await)
}

/// A ClickHouse whose user `default` has this password.
pub async fn clickhouse(password: &str) -> Option<Server> {
    let program = program("clickhouse-server")?;
    let users = format!(
        "<yandex><profiles><default/></profiles><quotas><default/></quotas><users><default>\
         <password>{password}</password><networks><ip>127.0.0.1</ip></networks>\
         <profile>default</profile><quota>default</quota></default></users></yandex>"
    );
    let args = |folder: &Path, port: u16| {
        let path = folder.display();
        let config = format!(
            "<yandex><logger><level>warning</level><console>1</console></logger>\
             <listen_host>127.0.0.1</listen_host><http_port>{port}</http_port><tcp_port>{}</tcp_port>\
             <path>{path}/data/</path><tmp_path>{path}/tmp/</tmp_path><mark_cache_size>1000000</mark_cache_size>\
             <users_config>users.xml</users_config><default_profile>default</default_profile>\
             <default_database>default</default_database></yandex>",
            free_port()
        );
        std::fs::write(folder.join("config.xml"), config).unwrap();
        std::fs::write(folder.join("users.xml"), users).unwrap();
        vec![format!("--config-file={path}/config.xml")]
    };
    Some(Server::start(program, args).await)
}

/// A Kafka broker with these arguments more.
pub async fn kafka(more: &[String]) -> Option<Server> {
    let program = program("tansu")?;
    let args = |_: &Path, port: u16| {
        let url = format!("tcp://127.0.0.1:{port}");
        let args = ["broker", "--listener-url", &url, "--advertised-listener-url", &url];
        let storage = ["--storage-engine", "memory://tansu/"];
        args.iter().chain(&storage).map(|arg| (*arg).to_owned()).chain(more.iter().cloned()).collect()
    };
    Some(Server::start(program, args).await)
}

/// Accepts connections and never says a word, and counts them.
pub struct Silence {
    pub port: u16,
    opened: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Silence {
    pub async fn listen() -> Silence {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (opened, closed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let counts = (Arc::clone(&opened), Arc::clone(&closed));
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                counts.0.fetch_add(1, Ordering::SeqCst);
                let closed = Arc::clone(&counts.1);
                connections.spawn(async move {
                    let mut heard = [0; 1024];
                    while stream.read(&mut heard).await.is_ok_and(|length| length > 0) {}
                    closed.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Silence { port, opened, closed, _task: task }
    }

    /// Connections so far, and those that the other side has not closed.
    pub fn counts(&self) -> (usize, usize) {
        let closed = self.closed.load(Ordering::SeqCst);
        let opened = self.opened.load(Ordering::SeqCst);
        (opened, opened - closed)
    }
}

/// Answers each connection with the same bytes, whatever it is asked, and leaves it open.
pub async fn parrot(answer: Vec<u8>) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            connections.spawn(async move {
                let mut heard = [0; 1024];
                if stream.read(&mut heard).await.is_ok_and(|length| length > 0) {
                    let _ = stream.write_all(&answer).await;
                }
                while stream.read(&mut heard).await.is_ok_and(|length| length > 0) {}
            });
        }
    });
    (port, task)
}

/// Says `begin` to each connection and `then` each time it hears something, as often as `turns` tells, and after that sends
/// one letter without end. Counts what it got rid of, in bytes.
pub async fn endless(begin: &'static str, then: &'static str, turns: usize) -> (u16, Arc<AtomicU64>, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = Arc::new(AtomicU64::new(0));
    let mut task = JoinSet::new();
    let counter = Arc::clone(&sent);
    task.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let sent = Arc::clone(&counter);
            connections.spawn(async move {
                let mut heard = [0; 1024];
                let _ = stream.write_all(begin.as_bytes()).await;
                for _ in 0..turns {
                    let _ = stream.read(&mut heard).await;
                    let _ = stream.write_all(then.as_bytes()).await;
                }
                while let Ok(length) = stream.write(&[b'A'; 64 * 1024]).await {
                    sent.fetch_add(length.try_into().unwrap(), Ordering::Relaxed);
                }
            });
        }
    });
    (port, sent, task)
}

/// Speaks TLS, with the certificate `server`, and passes on what it hears to a port of loopback.
pub async fn encrypted(to: u16, certificates: &Certificates) -> (u16, JoinSet<()>) {
    let chain = CertificateDer::pem_file_iter(certificates.path("server.pem")).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(certificates.path("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((near, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                let Ok(mut near) = acceptor.accept(near).await else { return };
                let mut far = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (port, task)
}

/// Takes PLAIN credentials for a Kafka broker that has none, as brokers do: a proposal of another mechanism is answered
/// with those there are and a hang-up, and so is a request without credentials, without an answer.
pub async fn plain_before(to: u16, user: &'static str, password: &'static str) -> (u16, JoinSet<()>) {
    async fn request(stream: &mut TcpStream) -> Option<Vec<u8>> {
        let mut request = vec![0; stream.read_u32().await.ok()? as usize];
        stream.read_exact(&mut request).await.ok()?;
        Some(request)
    }
    async fn answer(stream: &mut TcpStream, request: &[u8], body: &[u8]) {
        let answer = [&(4 + body.len() as u32).to_be_bytes()[..], &request[4..8], body].concat();
        stream.write_all(&answer).await.unwrap();
    }
    const CLIENT_ID: usize = 8 + 2 + "central-hub".len();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut near, _)) = listener.accept().await {
            connections.spawn(async move {
                let Some(proposal) = request(&mut near).await else { return };
                if proposal[..2] != 17i16.to_be_bytes() {
                    return;
                }
                let offered = b"\0\0\0\x02\0\x06GSSAPI\0\x05PLAIN";
                if &proposal[CLIENT_ID..] != b"\0\x05PLAIN" {
                    return answer(&mut near, &proposal, &[b"\0\x21", &offered[..]].concat()).await;
                }
                answer(&mut near, &proposal, &[b"\0\0", &offered[..]].concat()).await;
                let Some(proof) = request(&mut near).await else { return };
                if proof[CLIENT_ID + 4..] != *format!("\0{user}\0{password}").as_bytes() {
                    return answer(&mut near, &proof, b"\0\x3a\0\x03bad\0\0\0\0").await;
                }
                answer(&mut near, &proof, b"\0\0\xff\xff\0\0\0\0").await;
                let mut far = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (port, task)
}

/// Passes everything on to a port of loopback, each piece after a delay.
pub async fn delayed(to: u16, delay: Duration) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let pass_on = move |mut from: OwnedReadHalf, mut to: OwnedWriteHalf| async move {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut piece).await {
            sleep(delay).await;
            if to.write_all(&piece[..length]).await.is_err() {
                return;
            }
        }
    };
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, to))).await else { continue };
            let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
            connections.spawn(pass_on(near_read, far_write));
            connections.spawn(pass_on(far_read, near_write));
        }
    });
    (port, task)
}
