//! The last-good file: what was in force when the hub was last heard. The Python client reads and writes the same format
//! (`tests/clients/README.md`).

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::entry::Offer;
use crate::domain::name::ServiceName;

/// The format that is read and written.
const FORMAT: i64 = 1;

/// Bytes of a file at the most: far more than a config may have.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// How long to wait for another process that writes the file: far longer than that takes.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// How often to try the lock.
const LOCK_LOOK: Duration = Duration::from_millis(20);

/// Why a file doesn't count.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// The system says no.
    #[error("it can't be read: {0}")]
    Io(#[from] io::Error),
    /// It isn't a whole file of this format.
    #[error("{0}")]
    Content(&'static str),
}

/// The folder for last-good files: the application's choice, else `CENTRAL_HUB_CACHE_DIR`, else `central-hub` in the
/// user's cache folder; `None` when there is no such thing.
pub(super) fn folder(chosen: Option<&Path>, variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let chosen = chosen.map(Path::to_owned).or_else(|| set("CENTRAL_HUB_CACHE_DIR"));
    let xdg = || set("XDG_CACHE_HOME").filter(|folder| folder.is_absolute());
    let home = || Some(set("HOME")?.join(".cache"));
    chosen.or_else(|| Some(xdg().or_else(home)?.join("central-hub")))
}

/// The last-good file of a service. All of its calls block.
#[derive(Clone, Debug)]
pub(super) struct CacheFile {
    service: ServiceName,
    folder: PathBuf,
}

impl CacheFile {
    pub(super) fn new(folder: PathBuf, service: ServiceName) -> Self {
        Self { service, folder }
    }

    /// Where it is.
    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.service))
    }

    /// What it holds; `None` when there is no such file.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub(super) fn read(&self) -> Result<Option<Offer>, Unreadable> {
        let file = match File::open(self.path()) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text)?;
        parse(&text, &self.service).map(Some)
    }

    /// Writes what is in force, unless the file holds something newer. It is replaced in one step, so that a reader, or a
    /// power cut, finds the old one or the new one.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn write(&self, offer: &Offer, now: OffsetDateTime) -> io::Result<()> {
        make_folder(&self.folder)?;
        let _lock = self.lock();
        if let Ok(Some(there)) = self.read()
            && there.position > offer.position
        {
            return Ok(());
        }
        let beside = self.folder.join(format!(".{}.json.{:016x}", self.service, fastrand::u64(..)));
        let written = write_whole(&beside, render(offer, &self.service, now).to_string().as_bytes())
            .and_then(|()| std::fs::rename(&beside, self.path()));
        if written.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        written?;
        // So that the new name survives a power cut. Not every file system can do it.
        let _ = File::open(&self.folder).and_then(|folder| folder.sync_all());
        Ok(())
    }

    /// Keeps other processes from writing at the same time. Where that doesn't work it goes without: the worst is a file
    /// that is a little old.
    fn lock(&self) -> Option<File> {
        let path = self.folder.join(format!("{}.json.lock", self.service));
        // A link would have another file made, and a pipe would hold the process up.
        if path.symlink_metadata().is_ok_and(|there| !there.is_file()) {
            return None;
        }
        let lock = private().create(true).truncate(false).open(path).ok()?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => return Some(lock),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_LOOK),
                Err(_) => return None,
            }
        }
    }
}

/// Opens files for writing that nobody else may read.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

fn make_folder(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

fn write_whole(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = private().create_new(true).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Reads the text of a file of `service`.
///
/// # Errors
/// [`Unreadable::Content`].
pub(super) fn parse(text: &[u8], service: &ServiceName) -> Result<Offer, Unreadable> {
    let Ok(Value::Object(mut fields)) = serde_json::from_slice::<Value>(text) else {
        return Err(Unreadable::Content("it is damaged"));
    };
    match fields.get("format").and_then(Value::as_i64) {
        Some(FORMAT) => {}
        Some(_) => return Err(Unreadable::Content("it has a format that this version doesn't know")),
        None => return Err(Unreadable::Content("it is no last-good file")),
    }
    if fields.get("service_name").and_then(Value::as_str) != Some(service.as_str()) {
        return Err(Unreadable::Content("it is of another service"));
    }
    Offer::of(&mut fields).ok_or(Unreadable::Content("a field is missing or wrong"))
}

/// The object that stands in the file.
pub(super) fn render(offer: &Offer, service: &ServiceName, now: OffsetDateTime) -> Value {
    let Offer { position, version, checksum, config, is_canary: _ } = offer;
    let seconds = now.replace_nanosecond(0).unwrap_or(now);
    json!({
        "format": FORMAT, "service_name": service, "epoch": position.epoch, "revision": position.revision,
        "version": version, "checksum": checksum, "config": config,
        "written_at": seconds.format(&Rfc3339).unwrap_or_default(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::config::Position;

    fn offer(revision: i64) -> Offer {
        let Value::Object(config) = json!({"revision": revision, "filler": "x".repeat(10_000)}) else { unreachable!() };
        let position = Position { epoch: 1, revision };
        Offer { position, version: Some(revision), checksum: None, config: Some(config), is_canary: false }
    }

    /// Many writers and a reader: each read finds a whole file, and none an older one than before.
    #[test]
    fn a_shared_file_is_always_whole_and_never_goes_back() {
        let folder = tempfile::tempdir().unwrap();
        let file = CacheFile::new(folder.path().join("made/as/needed"), "tick".parse().unwrap());
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let file = &file;
                scope.spawn(move || {
                    for step in 0..25 {
                        file.write(&offer(1 + step * 4 + writer), OffsetDateTime::UNIX_EPOCH).unwrap();
                    }
                });
            }
            let mut last = 0;
            while last < 100 {
                if let Some(found) = file.read().unwrap() {
                    assert!(found.position.revision >= last, "{} after {last}", found.position.revision);
                    last = found.position.revision;
                    assert_eq!(found, offer(last));
                }
            }
        });
        let left: Vec<_> = std::fs::read_dir(&file.folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "the file and its lock: {left:?}");
        #[cfg(unix)]
        for (path, mode) in [(file.path(), 0o600), (file.folder.clone(), 0o700)] {
            let found = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
            assert_eq!(found & 0o777, mode, "{}", path.display());
        }
    }
}
