//! What the demo tells: each step with what was found and how long it took, for people or as JSON lines.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::cli::chain;
use crate::client::CallError;

/// Where a step's time ends, in columns, so that the report fits a terminal of 80.
const TIME_ENDS: usize = 76;

/// What a step was to find, and what it found instead.
#[derive(Debug)]
pub struct Mismatch {
    /// What should have been.
    pub expected: String,
    /// What was.
    pub found: String,
}

impl Mismatch {
    /// `found` instead of `expected`.
    pub fn new(expected: impl Display, found: impl Display) -> Mismatch {
        Mismatch { expected: expected.to_string(), found: found.to_string() }
    }
}

impl From<CallError> for Mismatch {
    fn from(error: CallError) -> Mismatch {
        Mismatch::new("an answer of success", chain(&error))
    }
}

/// Goes on if the condition holds.
///
/// # Errors
/// `expected` and `found` if it doesn't.
pub fn check(holds: bool, expected: impl Display, found: impl Display) -> Result<(), Mismatch> {
    if holds { Ok(()) } else { Err(Mismatch::new(expected, found)) }
}

/// What a step found: lines for people, facts for programs.
#[derive(Debug, Default)]
pub struct Findings {
    lines: Vec<String>,
    facts: Map<String, Value>,
}

impl Findings {
    /// Findings with a first line.
    pub fn new(line: impl Into<String>) -> Findings {
        Findings::default().line(line)
    }

    /// Adds a line; at most 75 characters fit.
    pub fn line(mut self, line: impl Into<String>) -> Findings {
        self.lines.push(line.into());
        self
    }

    /// Adds a fact.
    pub fn fact(mut self, name: &str, value: impl Into<Value>) -> Findings {
        self.facts.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a duration, in milliseconds.
    pub fn time(self, name: &str, time: Duration) -> Findings {
        self.fact(&format!("{name}_ms"), milliseconds(time))
    }
}

/// A step on its way.
#[derive(Debug)]
struct Open {
    name: &'static str,
    title: &'static str,
    since: Instant,
}

/// The report, written to stdout as it grows. A reader that went away doesn't stop the demo.
#[derive(Debug)]
pub struct Report {
    json: bool,
    /// Whether stdout is a terminal on which a line may be coloured and written anew.
    lively: bool,
    since: Instant,
    steps: usize,
    failed: bool,
    open: Option<Open>,
}

impl Report {
    /// A report that begins now.
    pub fn new(json: bool) -> Report {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let lively = !json && !no_color && !dumb && std::io::stdout().is_terminal();
        Report { json, lively, since: Instant::now(), steps: 0, failed: false, open: None }
    }

    /// Whether no step has failed.
    pub fn is_good(&self) -> bool {
        !self.failed
    }

    /// Says something to people only.
    pub fn say(&self, text: &str) {
        if !self.json {
            write(text);
        }
    }

    /// Does a step and tells how it went; `true` if its findings are what they should be.
    pub async fn step<F>(&mut self, name: &'static str, title: &'static str, doing: F) -> bool
    where
        F: Future<Output = Result<Findings, Mismatch>>,
    {
        self.begin(name, title);
        let result = doing.await;
        self.end(result)
    }

    /// Begins a step: `name` for programs, `title` for people.
    pub fn begin(&mut self, name: &'static str, title: &'static str) {
        self.steps += 1;
        self.open = Some(Open { name, title, since: Instant::now() });
        if self.lively {
            write(&format!("{:>2} … {title}", self.steps));
        }
    }

    /// Ends the step that was begun; a mismatch while none is open counts as one of its own.
    pub fn end(&mut self, result: Result<Findings, Mismatch>) -> bool {
        let open = self.open.take().unwrap_or_else(|| {
            self.steps += 1;
            Open { name: "interlude", title: "Between the steps", since: Instant::now() }
        });
        let took = open.since.elapsed();
        let good = result.is_ok();
        self.failed |= !good;
        write(&if self.json { self.as_json(&open, took, result) } else { self.as_text(&open, took, result) });
        good
    }

    fn as_json(&self, open: &Open, took: Duration, result: Result<Findings, Mismatch>) -> String {
        let mut line =
            json!({"step": self.steps, "name": open.name, "ok": result.is_ok(), "took_ms": milliseconds(took)});
        match result {
            Ok(findings) => line["facts"] = findings.facts.into(),
            Err(mismatch) => {
                line["expected"] = mismatch.expected.into();
                line["found"] = mismatch.found.into();
            }
        }
        format!("{line}\n")
    }

    fn as_text(&self, open: &Open, took: Duration, result: Result<Findings, Mismatch>) -> String {
        let (mark, lines) = match result {
            Ok(findings) => (self.colored("32", "✓"), findings.lines),
            Err(Mismatch { expected, found }) => {
                (self.colored("31", "✗"), vec![format!("expected  {expected}"), format!("found     {found}")])
            }
        };
        // The number, the mark and three blanks come before the title.
        let room = TIME_ENDS.saturating_sub(open.title.chars().count() + 5);
        let again = if self.lively { "\r\x1b[2K" } else { "" };
        let mut text = format!("{again}{:>2} {mark} {}{:>room$}\n", self.steps, open.title, shown(took));
        // A found log has lines of its own.
        for line in lines.iter().flat_map(|line| line.lines()) {
            text.push_str(&format!("     {}\n", self.colored("2", line)));
        }
        text
    }

    /// Leaves the step that was begun without an end.
    pub fn interrupted(&mut self) {
        if self.open.take().is_some() && self.lively {
            write("\n");
        }
        self.say("\n");
    }

    /// Ends the report of a demo that came to its end, good or bad.
    pub fn close(&self, advice: &str) {
        let took = self.since.elapsed();
        let verified = self.steps - usize::from(self.failed);
        if self.json {
            let line =
                json!({"ok": !self.failed, "steps": self.steps, "verified": verified, "took_ms": milliseconds(took)});
            write(&format!("{line}\n"));
        } else if self.failed {
            let verdict = self.colored("31", "The demo failed");
            write(&format!("\n{verdict} after {verified} verified steps, in {}.\n", shown(took)));
        } else {
            let verdict = self.colored("32", &format!("All {verified} steps were verified"));
            write(&format!("\n{verdict}, in {}. {advice}", shown(took)));
        }
    }

    fn colored(&self, color: &str, text: &str) -> String {
        if self.lively { format!("\x1b[{color}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn write(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}

/// A duration for people, with two or three digits.
pub fn shown(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 0.01 {
        format!("{:.1} ms", seconds * 1e3)
    } else if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1e3)
    } else {
        format!("{seconds:.1} s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_digits_that_matter() {
        for (micros, text) in
            [(180, "0.2 ms"), (2_300, "2.3 ms"), (61_400, "61 ms"), (999_000, "999 ms"), (3_240_000, "3.2 s")]
        {
            assert_eq!(shown(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn times_end_in_one_column() {
        let report = Report { json: false, lively: false, since: Instant::now(), steps: 7, failed: false, open: None };
        for title in ["Short", "A title that is rather longer than the other"] {
            let open = Open { name: "x", title, since: Instant::now() };
            let text = report.as_text(&open, Duration::from_millis(61), Ok(Findings::new("all is well")));
            assert_eq!(text.lines().next().map(|line| line.chars().count()), Some(TIME_ENDS), "{text}");
            assert!(text.ends_with("\n     all is well\n"), "{text}");
        }
    }
}
