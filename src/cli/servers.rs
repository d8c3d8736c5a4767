//! Where the programs of the private servers lie: nats-server, and PostgreSQL's `initdb` and `postgres`.
//!
//! `deploy/setup.sh` looks in the same places in the same order; what it brings lands in `.tools/bin`.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The environment variable that names a nats-server to use, whatever its version.
pub const NATS_SERVER_VARIABLE: &str = "CENTRAL_HUB_NATS_SERVER";

/// The environment variable that names the folder with PostgreSQL's `initdb` and `postgres`.
pub const PG_BIN_VARIABLE: &str = "CENTRAL_HUB_PG_BIN";

/// The oldest nats-server that is used unasked: the first whose streams may start at a given sequence.
pub const OLDEST_NATS: Version = Version { major: 2, minor: 10, patch: 0 };

/// The oldest PostgreSQL that the schema runs on.
pub const OLDEST_POSTGRES: Version = Version { major: 14, minor: 0, patch: 0 };

/// A version as a server tells it with `--version`. What follows the third number is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number: for PostgreSQL, the one that decides whether data can be shared.
    pub major: u32,
    /// The second number, 0 if not told.
    pub minor: u32,
    /// The third number, 0 if not told (PostgreSQL has none).
    pub patch: u32,
}

impl Version {
    /// Reads the first dotted number of `nats-server: v2.15.1`, `postgres (PostgreSQL) 15.18 (Debian …)`,
    /// `postgres (PostgreSQL) 18beta1`.
    pub fn parse(text: &str) -> Option<Version> {
        let start = text.find(|c: char| c.is_ascii_digit())?;
        let number = text[start..].split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut parts = number.split('.').map(|part| part.parse().ok());
        let major = parts.next()??;
        let mut next = || parts.next().flatten().unwrap_or(0);
        Some(Version { major, minor: next(), patch: next() })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.patch > 0 { write!(f, ".{}", self.patch) } else { Ok(()) }
    }
}

/// A program that was found and told its version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// nats-server itself; for PostgreSQL the folder that holds `initdb` and `postgres`. Absolute, links followed.
    pub path: PathBuf,
    /// What it says of itself.
    pub version: Version,
}

/// Why no usable server was found.
#[derive(Debug, thiserror::Error)]
pub enum NotFound {
    /// The program that was named explicitly can't be used.
    #[error("{named} names {}, which can't be used: {why}", .path.display())]
    Named {
        /// The argument or variable that named it.
        named: &'static str,
        /// What it named.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// No place has one that is new enough.
    #[error("no {what} was found{}; run `make setup`, or name one with {named}", listed(.passed_over))]
    Anywhere {
        /// What was looked for.
        what: &'static str,
        /// The argument and variable that name one.
        named: &'static str,
        /// What was found and not taken, with the reason.
        passed_over: Vec<String>,
    },
}

fn listed(reasons: &[String]) -> String {
    if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) }
}

/// Finds nats-server: `explicit` (or [`NATS_SERVER_VARIABLE`]), else `.tools/bin`, PATH and the usual places, where
/// versions older than [`OLDEST_NATS`] are passed over.
///
/// # Errors
/// [`NotFound`], with what was passed over and what to do next.
pub fn nats_server(explicit: Option<&Path>) -> Result<Found, NotFound> {
    const NAMED: &str = "--nats-server or CENTRAL_HUB_NATS_SERVER";
    if let Some(path) = explicit.map(Path::to_path_buf).or_else(|| variable(NATS_SERVER_VARIABLE)) {
        return usable(&path).map_err(|why| NotFound::Named { named: NAMED, path, why });
    }
    let folders = tool_folders().into_iter().chain(path_folders()).chain(usual_nats_folders());
    let candidates = unique(folders.map(|folder| folder.join("nats-server")));
    first_usable("nats-server", NAMED, OLDEST_NATS, &candidates, usable)
}

/// Finds the folder with PostgreSQL's `initdb` and `postgres`: `explicit` (or [`PG_BIN_VARIABLE`]), else PATH and the
/// usual places, newest first, where versions older than [`OLDEST_POSTGRES`] are passed over.
///
/// # Errors
/// [`NotFound`], with what was passed over and what to do next.
pub fn postgres(explicit: Option<&Path>) -> Result<Found, NotFound> {
    const NAMED: &str = "--pg-bin or CENTRAL_HUB_PG_BIN";
    if let Some(path) = explicit.map(Path::to_path_buf).or_else(|| variable(PG_BIN_VARIABLE)) {
        return usable_postgres(&path).map_err(|why| NotFound::Named { named: NAMED, path, why });
    }
    // `initdb` may be on PATH as a link into a folder that the version names; it looks for its `postgres` there.
    let on_path = path_folders().into_iter().filter(|folder| folder.join("initdb").is_file());
    let candidates = unique(on_path.chain(usual_postgres_folders()).filter(|folder| folder.join("initdb").is_file()));
    first_usable("PostgreSQL", NAMED, OLDEST_POSTGRES, &candidates, usable_postgres)
}

/// The first candidate that runs and is new enough; else an error that lists what was wrong with each.
fn first_usable(
    what: &'static str,
    named: &'static str,
    oldest: Version,
    candidates: &[PathBuf],
    ask: impl Fn(&Path) -> Result<Found, String>,
) -> Result<Found, NotFound> {
    let mut passed_over = Vec::new();
    for path in candidates {
        match ask(path) {
            Ok(found) if found.version >= oldest => return Ok(found),
            Ok(found) => passed_over.push(format!(
                "passed over {}: version {}, but {oldest} or newer is needed",
                path.display(),
                found.version
            )),
            Err(why) => passed_over.push(format!("passed over {}: {why}", path.display())),
        }
    }
    Err(NotFound::Anywhere { what, named, passed_over })
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Asks the program for its version; the reason if it doesn't run or doesn't say.
fn usable(program: &Path) -> Result<Found, String> {
    let path = program.canonicalize().map_err(|error| error.to_string())?;
    let output = Command::new(&path)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("it doesn't run: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = Version::parse(&said).ok_or("it doesn't tell its version")?;
    Ok(Found { path, version })
}

fn usable_postgres(folder: &Path) -> Result<Found, String> {
    let initdb = usable(&folder.join("initdb")).map_err(|why| format!("initdb: {why}"))?;
    let bin = initdb.path.parent().unwrap_or(folder).to_path_buf();
    let postgres = usable(&bin.join("postgres")).map_err(|why| format!("postgres: {why}"))?;
    Ok(Found { path: bin, version: postgres.version })
}

/// `.tools/bin` in the current folder or one above it, or above the running program: a build inside the source tree
/// finds what `make setup` brought, from wherever it is started.
fn tool_folders() -> Vec<PathBuf> {
    let starts = [std::env::current_dir().ok(), std::env::current_exe().ok()];
    starts
        .iter()
        .flatten()
        .flat_map(|start| start.ancestors().map(|folder| folder.join(".tools/bin")))
        .filter(|folder| folder.is_dir())
        .collect()
}

fn path_folders() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

fn usual_nats_folders() -> Vec<PathBuf> {
    let fixed = ["/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/opt/homebrew/bin"];
    let mut folders: Vec<PathBuf> = fixed.iter().map(PathBuf::from).collect();
    folders.push("/home/linuxbrew/.linuxbrew/bin".into());
    folders.extend(std::env::home_dir().map(|home| home.join("go/bin")));
    folders
}

/// The folders in which distributions keep one PostgreSQL per version, newest version first.
fn usual_postgres_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for (parent, prefix, below) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/usr/lib", "postgresql", "bin"),
        ("/usr/libexec", "postgresql", ""),
        ("/usr/local", "pgsql", "bin"),
        ("/opt/homebrew/opt", "postgresql", "bin"),
        ("/usr/local/opt", "postgresql", "bin"),
        ("/home/linuxbrew/.linuxbrew/opt", "postgresql", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ] {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        let mut versions: Vec<(u32, PathBuf)> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
            .map(|entry| {
                let version = Version::parse(&entry.file_name().to_string_lossy()).map_or(0, |version| version.major);
                (version, entry.path().join(below))
            })
            .collect();
        versions.sort_by(|a, b| b.cmp(a));
        folders.extend(versions.into_iter().map(|(_, folder)| folder));
    }
    folders
}

/// The existing ones among the paths, each once, in order.
fn unique(paths: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    paths.filter(|path| path.exists() && seen.insert(path.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_servers_write_them() {
        for (said, expected) in [
            ("nats-server: v2.15.1", Some((2, 15, 1))),
            ("nats-server: v2.10.0-beta.3", Some((2, 10, 0))),
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some((15, 18, 0))),
            ("postgres (PostgreSQL) 18beta1", Some((18, 0, 0))),
            ("no number", None),
            ("", None),
        ] {
            let version = Version::parse(said).map(|v| (v.major, v.minor, v.patch));
            assert_eq!(version, expected, "{said}");
        }
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(Version::parse("2.9.10") < Some(OLDEST_NATS));
        assert!(Version::parse("2.15.1") > Some(OLDEST_NATS));
    }

    #[cfg(unix)]
    #[test]
    fn an_old_nats_server_is_passed_over() -> Result<(), Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        // A shell writes the scripts: a program that this process has open for writing could not be started.
        let script = |name: &str, version: &str| -> std::io::Result<PathBuf> {
            let path = folder.path().join(name);
            let text = format!("#!/bin/sh\necho 'nats-server: v{version}'\n");
            let written = Command::new("sh")
                .args(["-c", r#"printf %s "$1" >"$0" && chmod +x "$0""#])
                .arg(&path)
                .arg(text)
                .status()?;
            if written.success() { Ok(path) } else { Err(std::io::Error::other("no script")) }
        };
        let (old, new) = (script("old", "2.9.10")?, script("new", "2.10.0")?);

        let found = first_usable("nats-server", "--x", OLDEST_NATS, &[old.clone(), new.clone()], usable)?;
        assert_eq!(found.path, new.canonicalize()?);

        let Err(error) = first_usable("nats-server", "--x", OLDEST_NATS, std::slice::from_ref(&old), usable) else {
            return Err("the old one was taken".into());
        };
        let said = error.to_string();
        assert!(said.contains("2.9.10") && said.contains("make setup"), "{said}");

        assert_eq!(nats_server(Some(&old))?.version, Version { major: 2, minor: 9, patch: 10 }, "named explicitly");
        Ok(())
    }
}
