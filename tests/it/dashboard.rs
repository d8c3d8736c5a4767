//! `central-hub top` in a pseudo-terminal: what the screen shows, and what its keys do.

use std::io::{Read as _, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use portable_pty::{Child, CommandBuilder, PtySize, native_pty_system};
use serde_json::json;

use crate::ask::{Hub, SOON};
use crate::stack::{HubOptions, database, eventually, executable, private_nats};

const SIZE: PtySize = PtySize { rows: 24, cols: 80, pixel_width: 0, pixel_height: 0 };

/// The program on a terminal of 80 × 24.
struct Top {
    screen: Arc<Mutex<vt100::Parser>>,
    keys: Box<dyn Write + Send>,
    child: Killed,
    master: Box<dyn portable_pty::MasterPty + Send>,
    hung_up: Arc<AtomicBool>,
}

impl Top {
    fn start(hub: &Hub) -> Top {
        let options = hub.process.options();
        let pair = native_pty_system().openpty(SIZE).unwrap();
        let mut command = CommandBuilder::new(executable());
        command.arg("top");
        command.env("TERM", "xterm-256color");
        command.env("CENTRAL_HUB_NATS_URL", &options.nats_url);
        command.env("CENTRAL_HUB_SUBJECT_PREFIX", &options.prefix);
        command.env("CENTRAL_HUB_BUCKET_PREFIX", &options.prefix);
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let screen =
            Arc::new(Mutex::new(vt100::Parser::new(SIZE.rows.try_into().unwrap(), SIZE.cols.try_into().unwrap(), 0)));
        let mut output = pair.master.try_clone_reader().unwrap();
        let drawn = Arc::clone(&screen);
        let hung_up = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&hung_up);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                drawn.lock().unwrap().process(&buffer[..count]);
            }
        });
        Top { screen, keys: pair.master.take_writer().unwrap(), child: Killed(child), master: pair.master, hung_up }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    /// Waits until the screen shows all of this.
    async fn shows(&self, texts: &[&str]) {
        eventually(SOON, || async {
            let text = self.text();
            if texts.iter().all(|wanted| text.contains(wanted)) { Ok(()) } else { Err(text) }
        })
        .await;
    }

    /// The colour in which the first of this stands on the screen.
    fn colour_of(&self, text: &str) -> vt100::Color {
        let parser = self.screen.lock().unwrap();
        let (row, column) = (0u16..)
            .zip(parser.screen().rows(0, SIZE.cols))
            .find_map(|(row, line)| Some((row, line.find(text)?)))
            .expect("it is on the screen");
        parser.screen().cell(row, u16::try_from(column).unwrap()).unwrap().fgcolor()
    }

    /// Waits until the number of seconds that follows this on the screen has grown by two.
    async fn seconds_pass(&self, text: &str) {
        let seconds = || {
            let after = self.text().split_once(text)?.1.trim_start().to_owned();
            after.split_once('s')?.0.parse::<u64>().ok()
        };
        let first = seconds().expect("seconds");
        eventually(SOON, || std::future::ready(seconds() >= Some(first + 2))).await;
    }

    fn signal(&self, name: &str) {
        let pid = self.child.0.process_id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Takes the terminal away, as a window that is closed does; gives the exit code.
    async fn hang_up(mut self) -> u32 {
        // The terminal is there for as long as anybody has it open: the one who reads it lets it go at the next output.
        self.hung_up.store(true, Ordering::Relaxed);
        self.press("?");
        drop((self.keys, self.master));
        let status = eventually(SOON, || std::future::ready(self.child.0.try_wait().unwrap().ok_or("it runs"))).await;
        status.exit_code()
    }

    async fn shows_no(&self, gone: &str) {
        eventually(SOON, || async { if self.text().contains(gone) { Err(self.text()) } else { Ok(()) } }).await;
    }
}

/// Ends a program that its test leaves behind.
struct Killed(Box<dyn Child + Send + Sync>);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

#[tokio::test]
async fn the_fleet_is_shown_live_and_the_keys_work() {
    let hub = Hub::fresh().await;
    for (service, instance) in [("tick", "1"), ("tick", "2"), ("risk", "1")] {
        hub.ask(&format!("register.{service}"), json!({"instance_id": instance, "version": "1.2"})).await;
    }
    hub.ask("config.set.tick", json!({"config": {"n": 1}})).await;
    hub.ask("config.set.tick", json!({"config": {"n": 2}})).await;
    let mut top = Top::start(&hub);
    top.shows(&["3 services, 4 instances", "tick", "2/2", "v2 0/2", "timeline", "config published"]).await;
    assert!(!top.text().contains("not live"), "{}", top.text());

    // What happens shows by itself.
    for instance in ["1", "2"] {
        let says = json!({"instance_id": instance, "config_revision": 2, "config_version": 2, "metrics": {"cpu": 0.5}});
        hub.ask("heartbeat.tick", says).await;
    }
    top.shows(&["v2 2/2"]).await;
    hub.ask("heartbeat.risk", json!({"status": "down"})).await;
    top.shows(&["1 down", "risk", "0/1", "service down"]).await;
    top.shows(&["critical", "risk is down"]).await;

    // Filter, look into a service, take an instance out of use after a yes, roll its config back.
    top.press("/tic\r");
    top.shows_no("0/1").await;
    top.press("\r");
    top.shows(&["tick: config v2, revision 2, converged", "INSTANCE", "HEARD", "cpu"]).await;
    top.press("d");
    top.shows(&["take tick.1 out of use? (y/n)"]).await;
    top.press("n");
    top.shows_no("(y/n)").await;
    top.press("dy");
    top.shows(&["tick.1 is out of use", "draining"]).await;
    top.press("ry");
    top.shows(&["tick has v1 again, revision 3"]).await;
    assert_eq!(hub.ask("config.get.tick", "").await["version"], 1);
    top.press("?");
    top.shows(&["only services whose name contains what follows"]).await;
    top.press("x");
    top.press("q");
    let status = eventually(SOON, || std::future::ready(top.child.0.try_wait().unwrap())).await;
    assert!(status.success(), "{status:?}");
}

#[tokio::test]
async fn a_signal_gives_the_terminal_back() {
    let hub = Hub::fresh().await;
    for (signal, code) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let mut top = Top::start(&hub);
        top.shows(&["1 service"]).await;
        assert!(top.screen.lock().unwrap().screen().alternate_screen());
        top.signal(signal);
        let status = eventually(SOON, || std::future::ready(top.child.0.try_wait().unwrap().ok_or("it runs"))).await;
        assert_eq!(status.exit_code(), code, "{signal}");
        eventually(SOON, || async {
            if top.screen.lock().unwrap().screen().alternate_screen() { Err(top.text()) } else { Ok(()) }
        })
        .await;
    }
}

#[tokio::test]
async fn a_terminal_that_goes_away_ends_it() {
    let hub = Hub::fresh().await;
    let top = Top::start(&hub);
    top.shows(&["1 service"]).await;
    assert_eq!(top.hang_up().await, 129);
}

#[tokio::test]
async fn what_is_not_live_says_so_until_it_is() {
    let mut nats = private_nats().await;
    let mut hub = Hub::start(HubOptions::on(&nats.url(), &database().await)).await;
    hub.ask("register.tick", json!({"instance_id": "1"})).await;
    let top = Top::start(&hub);
    top.shows(&["2 services", "tick", "1/1", "service registered"]).await;
    for outage in ["NATS: not connected for", "no hub answers for"] {
        assert!(!top.text().contains(outage), "{}", top.text());
        if outage.starts_with("NATS") {
            nats.kill9().await
        } else {
            hub.process.kill9().await
        }
        top.shows(&[outage, "tick", "1/1"]).await;
        assert_eq!(top.colour_of(outage), vt100::Color::Idx(1), "red");
        top.seconds_pass(outage).await;
        if outage.starts_with("NATS") {
            nats.restart().await.unwrap()
        } else {
            hub.process.restart().await
        }
        top.shows_no(outage).await;
        top.shows_no("not live").await;
        hub.process.ready().await;
    }
    // It is live again, not only silent about it.
    hub.ask("register.tick", json!({"instance_id": "2"})).await;
    top.shows(&["2/2"]).await;
}

#[tokio::test]
async fn who_left_together_with_the_data_of_nats_goes_when_the_hub_says_so() {
    let mut nats = private_nats().await;
    let mut hub = Hub::start(HubOptions::on(&nats.url(), &database().await)).await;
    for service in ["stays", "leaves"] {
        hub.ask(&format!("register.{service}"), json!({"instance_id": "1"})).await;
    }
    let top = Top::start(&hub);
    top.shows(&["3 services", "stays", "leaves"]).await;
    // It doesn't see the marker that a goodbye leaves, and afterwards there is none.
    top.signal("STOP");
    hub.ask("deregister.leaves", json!({"instance_id": "1"})).await;
    hub.process.kill9().await;
    nats.kill9().await;
    std::fs::remove_dir_all(nats.folder().join("store")).unwrap();
    nats.restart().await.unwrap();
    top.signal("CONT");
    // Nothing in KV, and no hub: what was known is still shown.
    top.shows(&["no hub answers for"]).await;
    top.seconds_pass("no hub answers for").await;
    top.shows(&["3 services", "stays", "leaves"]).await;
    hub.process.restart().await;
    top.shows(&["2 services", "2 healthy", "stays"]).await;
    top.shows_no("no hub answers").await;
    top.shows_no("not live").await;
    hub.ask("register.comes", json!({"instance_id": "1"})).await;
    top.shows(&["3 services", "comes"]).await;
}
