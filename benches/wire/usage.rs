//! What processes took: CPU time and memory, as `/proc` tells them (Linux; elsewhere there are no numbers).

use std::collections::HashMap;
use std::fs;

use serde::Serialize;

use crate::Error;
use crate::fleet::Fleet;

/// What `/proc` counts CPU time in: a hundredth of a second on every architecture that Linux has today.
const TICKS_PER_SECOND: f64 = 100.0;

/// The resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Now.
    pub now: u64,
    /// The most that there ever was.
    pub peak: u64,
}

/// Reads a process' memory.
pub fn memory(pid: u32) -> Result<Memory, Error> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    match (field("VmRSS:"), field("VmHWM:")) {
        (Some(now), Some(peak)) => Ok(Memory { now: now * 1024, peak: peak * 1024 }),
        _ => Err(format!("{path} tells no memory").into()),
    }
}

/// CPU seconds since each process started, or of a stretch of time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Usage {
    /// The load generator: this process.
    pub load: f64,
    /// nats-server.
    pub nats: f64,
    /// The echo.
    pub echo: f64,
    /// The hub.
    pub hub: f64,
    /// PostgreSQL, all its processes together.
    pub postgres: f64,
    /// Everything else on the machine, the kernel's own work included.
    pub others: f64,
}

impl Usage {
    /// Reads the clocks of all processes.
    pub fn read(fleet: &Fleet) -> Result<Self, Error> {
        let seconds = |ticks: u64| ticks as f64 / TICKS_PER_SECOND;
        let processes = processes();
        let of = |pid: Option<u32>| {
            let own = pid.and_then(|pid| processes.get(&pid));
            seconds(own.map_or(0, |process| process.cpu))
        };
        let (nats, postgres) = (fleet.stack.nats.pid(), fleet.stack.postgres.pid());
        let postgres = match postgres.and_then(|pid| processes.get(&pid).map(|process| (pid, process))) {
            None => 0.0,
            Some((pid, first)) => {
                let children = processes.values().filter(|process| process.parent == pid);
                // Children that have ended count in their parent.
                seconds(first.cpu + first.cpu_of_ended + children.map(|child| child.cpu).sum::<u64>())
            }
        };
        let (load, nats) = (of(Some(std::process::id())), of(nats));
        let (echo, hub) = (of(Some(fleet.echo.pid())), of(Some(fleet.hub.pid())));
        let others = seconds(busy()?) - load - nats - echo - hub - postgres;
        Ok(Self { load, nats, echo, hub, postgres, others })
    }

    /// What was used since `before`.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            load: self.load - before.load,
            nats: self.nats - before.nats,
            echo: self.echo - before.echo,
            hub: self.hub - before.hub,
            postgres: self.postgres - before.postgres,
            // Clocks that are read one after another may disagree by a tick.
            others: (self.others - before.others).max(0.0),
        }
    }
}

/// A process as `/proc/<pid>/stat` describes it; times in ticks.
struct Process {
    parent: u32,
    cpu: u64,
    cpu_of_ended: u64,
}

fn processes() -> HashMap<u32, Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let read = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // `pid (name) state parent …`; the name may hold spaces and brackets.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
        Some((
            pid,
            Process {
                parent: u32::try_from(number(1)?).ok()?,
                cpu: number(11)? + number(12)?,
                cpu_of_ended: number(13)? + number(14)?,
            },
        ))
    };
    entries.filter_map(read).collect()
}

/// Ticks that the machine's processors were busy since it started.
fn busy() -> Result<u64, Error> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).ok_or("/proc/stat tells no CPU time")?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    // user, nice, system, idle, waiting for disks, interrupts, soft interrupts, stolen by the host.
    Ok(fields.iter().take(8).enumerate().filter(|(at, _)| ![3, 4].contains(at)).map(|(_, ticks)| ticks).sum())
}
