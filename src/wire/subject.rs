//! Subjects: how they match, and which of them the hub answers to.

/// Whether `subject` is a plain subject (no empty token, no wildcard, no white space or control character) that
/// `pattern` covers; in `pattern`, `*` covers one token and a last `>` one or more.
#[must_use]
pub fn matches(pattern: &str, subject: &str) -> bool {
    let plain =
        |token: &str| !token.is_empty() && !token.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'*' || b == b'>');
    if !subject.split('.').all(plain) {
        return false;
    }
    let mut tokens = subject.split('.');
    let mut rest = pattern.split('.').peekable();
    while let Some(expected) = rest.next() {
        match (expected, tokens.next()) {
            (">", Some(_)) => return rest.peek().is_none(),
            ("*", Some(_)) => {}
            (expected, Some(token)) if expected == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// The subjects that the hub answers to: inboxes. A reply to anywhere else would let a caller use the hub's own rights
/// (`$JS.API.STREAM.DELETE.…` as a reply subject deletes a bucket).
#[derive(Clone, Debug)]
pub struct Inboxes(Vec<String>);

impl Inboxes {
    /// The inboxes that NATS clients use: `_INBOX.>`, and `_R_.>` of requests that cross a gateway or an import.
    pub const DEFAULT: [&'static str; 2] = ["_INBOX.>", "_R_.>"];

    /// Inboxes given by patterns.
    #[must_use]
    pub fn new(patterns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self(patterns.into_iter().map(Into::into).collect())
    }

    /// Whether the hub may answer to `reply`.
    #[must_use]
    pub fn allow(&self, reply: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, reply))
    }
}

impl Default for Inboxes {
    fn default() -> Self {
        Self::new(Self::DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_inboxes_are_answered() {
        let inboxes = Inboxes::default();
        for reply in ["_INBOX.a", "_INBOX.a.b", "_R_.x.y"] {
            assert!(inboxes.allow(reply), "{reply}");
        }
        for reply in [
            "_INBOX",
            "_INBOX.",
            "_INBOX..a",
            "_INBOX.>",
            "_INBOX.*",
            "_INBOX.a b",
            "_INBOX.a\r\nPUB x",
            "_INBOXX.a",
            "$JS.API.STREAM.DELETE.KV_hub_config",
            "$KV.hub_config.a",
            "hub.config.set.a",
            "",
        ] {
            assert!(!inboxes.allow(reply), "{reply:?}");
        }
        assert!(Inboxes::new(["_INBOX.*.x"]).allow("_INBOX.a.x"));
    }
}
