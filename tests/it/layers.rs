//! The rooms of `src/` import in one direction, as `src/lib.rs` says.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A room, the rooms that it may import from, and the packages that are its business and not everybody's.
struct Room(&'static str, &'static [&'static str], &'static [&'static str]);

const ROOMS: &[Room] = &[
    Room("domain", &[], &[]),
    Room("wire", &["domain"], &[]),
    Room(
        "store",
        &["domain", "wire"],
        &["tokio", "tokio_postgres", "deadpool_postgres", "refinery", "rustls", "tracing"],
    ),
    Room("nats", &["wire"], &["tokio", "async_nats", "rustls"]),
    Room("hub", &["domain", "wire", "store", "nats"], &["tokio", "tokio_util", "async_nats", "rustls", "tracing"]),
    Room("client", &["domain", "wire", "nats"], &["tokio", "tokio_util", "async_nats", "tracing"]),
    Room(
        "cli",
        &["domain", "wire", "store", "nats", "hub", "client"],
        &["tokio", "tokio_util", "tokio_postgres", "async_nats", "clap", "rustix", "tracing"],
    ),
];

/// Packages that only some rooms may know: pure rooms stay pure; SQL, NATS and the command line each have their place.
const KEPT_APART: &[&str] = &[
    "tokio",
    "tokio_util",
    "tokio_postgres",
    "deadpool_postgres",
    "refinery",
    "rustls",
    "async_nats",
    "clap",
    "rustix",
    "tracing",
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The text of a room's files without comments.
fn code(room: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let file = source().join(format!("{room}.rs"));
    if file.exists() {
        found.push(file);
    }
    if source().join(room).is_dir() {
        files(&source().join(room), &mut found);
    }
    assert!(!found.is_empty(), "{room} is empty");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
        (path, code.collect::<Vec<_>>().join("\n"))
    };
    found.into_iter().map(read).collect()
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// What follows `crate::` in a text, also inside braces: `crate::{domain::name, wire}` names `domain` and `wire`.
fn named(text: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            rooms.insert(word(rest).to_owned());
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (index, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                c if begins && !c.is_whitespace() => {
                    rooms.insert(word(&group[index..]).to_owned());
                    begins = false;
                }
                _ => {}
            }
        }
    }
    rooms
}

#[test]
fn imports_go_one_way() {
    for Room(room, allowed, _) in ROOMS {
        for (path, text) in code(room) {
            for other in named(&text) {
                let fine = other == *room || allowed.contains(&other.as_str());
                assert!(fine, "{} imports from {other}; {room} may import from {allowed:?} only", path.display());
            }
        }
    }
}

#[test]
fn packages_stay_in_their_rooms() {
    for Room(room, _, packages) in ROOMS {
        for (path, text) in code(room) {
            for package in KEPT_APART.iter().filter(|package| !packages.contains(package)) {
                let names_it = text
                    .match_indices(&format!("{package}::"))
                    .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':'));
                assert!(!names_it, "{} uses {package}, which isn't the business of {room}", path.display());
            }
        }
    }
}

/// A room that this test doesn't know would be free to import anything.
#[test]
fn every_room_is_known() {
    let text = std::fs::read_to_string(source().join("lib.rs")).unwrap();
    let rooms: BTreeSet<_> = text.lines().filter_map(|line| line.strip_prefix("pub mod ")).map(word).collect();
    assert_eq!(rooms, ROOMS.iter().map(|room| room.0).collect());
    let map: BTreeSet<_> = text.lines().filter_map(|line| line.strip_prefix("//! - [`")).map(word).collect();
    assert_eq!(map, rooms, "the code map names each");
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::domain::name::X;
        use crate::{wire::{self, Error}, store,
            hub::nats};
        fn f() { crate::cli::chain(e) }";
    let expected = ["cli", "domain", "hub", "store", "wire"].map(str::to_owned);
    assert_eq!(named(text), BTreeSet::from(expected));
}
