//! The data folders of private servers: whose they are, who may reach them, which ports they remember.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::StackError;
use crate::cli::guard::{LOCK_PATIENCE, remove_scratch, try_lock};

/// A user that servers run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The name, for messages.
    pub name: String,
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
}

impl Account {
    /// The user that servers run as when we are root, who must not run PostgreSQL: `postgres`, else `nobody`. `None` when
    /// we aren't root: then they run as we do.
    ///
    /// # Errors
    /// [`StackError::NoAccount`] if we are root and the system has neither.
    pub fn unprivileged() -> Result<Option<Account>, StackError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let find = |wanted: &str| {
            users.lines().find_map(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                match fields.as_slice() {
                    [name, _, uid, gid, ..] if *name == wanted => {
                        Some(Account { name: wanted.to_owned(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
                    }
                    _ => None,
                }
            })
        };
        find("postgres").or_else(|| find("nobody")).map(Some).ok_or(StackError::NoAccount)
    }

    /// Whether the permission bits let this user do `wanted` (1 enter or execute, 4 read) with the file.
    fn may(&self, wanted: u32, file: &std::fs::Metadata) -> bool {
        let shift = if file.uid() == self.uid {
            6
        } else if file.gid() == self.gid {
            3
        } else {
            0
        };
        (file.mode() >> shift) & wanted == wanted
    }

    /// The first folder above `path` that this user can't enter, if any.
    fn barred_from(&self, path: &Path) -> Option<PathBuf> {
        path.ancestors()
            .skip(1)
            .find(|folder| !std::fs::metadata(folder).is_ok_and(|metadata| self.may(1, &metadata)))
            .map(Path::to_path_buf)
    }

    /// Whether this user can execute the program where it lies.
    pub(super) fn can_execute(&self, program: &Path) -> bool {
        self.barred_from(program).is_none() && std::fs::metadata(program).is_ok_and(|metadata| self.may(5, &metadata))
    }
}

/// Makes the folder (and those above it). `known` names what may lie in it: a folder with anything else is not ours, and
/// is refused.
///
/// Returns the folder's absolute path, links followed.
pub(super) fn claim(folder: &Path, known: &[&str]) -> Result<PathBuf, StackError> {
    let io = |what: &str| {
        let what = format!("{what} {}", folder.display());
        move |source| StackError::Io { what, source }
    };
    if let Some(parent) = folder.parent() {
        std::fs::create_dir_all(parent).map_err(io("create the folders above"))?;
    }
    // Only the owner may look in: it holds a password and whatever the hub stores.
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(io("create")(error)),
        _ => {}
    }
    let folder = folder.canonicalize().map_err(io("find"))?;
    let entries = std::fs::read_dir(&folder).map_err(io("read"))?;
    if let Some(stranger) =
        entries.flatten().find(|entry| !known.iter().any(|known| entry.file_name().to_str() == Some(known)))
    {
        return Err(StackError::NotOurs { stranger: stranger.path(), folder });
    }
    Ok(folder)
}

/// A folder to remove once it is done with. While a server runs in it, that is its guard's part: it also comes to pass
/// when this process is killed.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Promises to remove the folder, if `wanted`.
    pub(super) fn new(folder: &Path, wanted: bool) -> Option<Scratch> {
        wanted.then(|| Scratch(folder.to_path_buf()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if matches!(try_lock(&self.0), Ok(Some(_))) {
            remove_scratch(&self.0);
        }
    }
}

/// Waits until no server runs in the folder: the guards of a process that was killed hold the lock until they
/// have stopped their servers.
pub(super) async fn wait_until_free(folder: &Path) -> Result<(), StackError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    while try_lock(folder)
        .map_err(|source| StackError::Io { what: format!("lock {}", folder.display()), source })?
        .is_none()
    {
        if Instant::now() > deadline {
            return Err(StackError::Locked { folder: folder.to_path_buf() });
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// How much of a folder is given to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// The folder itself: what runs below it is left alone.
    Alone,
    /// With everything below it. No server may be running there.
    Whole,
}

/// Gives the folder to the account that its server runs as, if that isn't us.
pub(super) fn hand_over(folder: &Path, account: Option<&Account>, extent: Extent) -> Result<(), StackError> {
    let Some(account) = account else { return Ok(()) };
    if let Some(barrier) = account.barred_from(folder) {
        return Err(StackError::Unreachable { folder: folder.to_path_buf(), barrier, user: account.name.clone() });
    }
    give(folder, account, extent)
        .map_err(|source| StackError::io(format!("change the owner of {}", folder.display()), source))
}

/// Links are changed themselves, never followed.
fn give(path: &Path, account: &Account, extent: Extent) -> std::io::Result<()> {
    let metadata = std::fs::symlink_metadata(path)?;
    if (metadata.uid(), metadata.gid()) != (account.uid, account.gid) {
        std::os::unix::fs::lchown(path, Some(account.uid), Some(account.gid))?;
    }
    if metadata.is_dir() && extent == Extent::Whole {
        for entry in std::fs::read_dir(path)? {
            give(&entry?.path(), account, extent)?;
        }
    }
    Ok(())
}

/// Writes a file that only its owner, the account or we, can read.
pub(super) fn write_private(path: &Path, text: &str, account: Option<&Account>) -> Result<(), StackError> {
    let write = || {
        let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        if let Some(account) = account {
            std::os::unix::fs::lchown(path, Some(account.uid), Some(account.gid))?;
        }
        Ok(())
    };
    write().map_err(|source| StackError::io(format!("write {}", path.display()), source))
}

/// Keeps the log of the run before as `….1`, so that a new one starts empty.
pub(super) fn rotate_log(log: &Path) {
    let _ = std::fs::rename(log, log.with_extension("log.1"));
}

/// The program to start: `program` where it lies if the account can execute it there, else a copy inside `folder`.
pub(super) fn executable_for(program: &Path, folder: &Path, account: Option<&Account>) -> Result<PathBuf, StackError> {
    let Some(account) = account.filter(|account| !account.can_execute(program)) else {
        return Ok(program.to_path_buf());
    };
    let copy = folder.join(program.file_name().unwrap_or_default());
    let make = || {
        // Written beside and renamed: a copy that still runs somewhere can't be written to.
        let fresh = copy.with_extension("new");
        std::fs::copy(program, &fresh)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755))?;
        std::fs::rename(&fresh, &copy)?;
        give(&copy, account, Extent::Alone)
    };
    make().map_err(|source| StackError::io(format!("copy {} to {}", program.display(), folder.display()), source))?;
    Ok(copy)
}

/// The port to listen on: the one that was asked for, else the one that the folder remembers if it is free, else a free
/// one, which is remembered.
pub(super) fn choose_port(folder: &Path, asked: Option<u16>, server: &'static str) -> Result<u16, StackError> {
    let memory = folder.join("port");
    let remembered = std::fs::read_to_string(&memory).ok().and_then(|text| text.trim().parse().ok());
    let port = match (asked, remembered) {
        (Some(port), _) if is_free(port) => port,
        (Some(port), _) => return Err(StackError::PortTaken { server, port }),
        (None, Some(port)) if is_free(port) => port,
        (None, _) => free_port().ok_or(StackError::PortTaken { server, port: 0 })?,
    };
    std::fs::write(&memory, format!("{port}\n"))
        .map_err(|source| StackError::io(format!("write {}", memory.display()), source))?;
    Ok(port)
}

/// Below the range from which the system takes the ports of outgoing connections (32768 and up on Linux): a client that
/// keeps trying a server that is down must not be given the server's own port.
fn free_port() -> Option<u16> {
    (0..200).map(|_| fastrand::u16(15_000..32_000)).find(|port| is_free(*port))
}

/// Whether nobody listens on this port of loopback.
pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
