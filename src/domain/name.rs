//! Names of services, instances and metrics: each is one NATS subject token and one KV key token, so none of them can
//! hold a dot, a wildcard or a space.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A name that breaks its grammar. The message states the rule, never the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadName(pub &'static str);

/// A logical service, `tick-aggregator`: `[A-Za-z0-9][A-Za-z0-9_-]{0,99}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(String);

/// One running process of a service: `[A-Za-z0-9_-]{1,128}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(String);

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

impl ServiceName {
    /// The name under which the hub's own replicas stand in the registry.
    pub const HUB: &'static str = "central-hub";

    /// The hub's own service name.
    #[must_use]
    pub fn hub() -> Self {
        Self(Self::HUB.to_owned())
    }

    /// What stands for the whole fleet where a name is due: `fleet`.
    #[must_use]
    pub fn fleet() -> Self {
        Self("fleet".to_owned())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn check(text: &str) -> Result<(), BadName> {
        let bytes = text.as_bytes();
        let well_formed = bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.len() <= 100
            && bytes.iter().copied().all(is_token_byte);
        if well_formed {
            Ok(())
        } else {
            Err(BadName("a service name is 1 to 100 of A-Z a-z 0-9 _ - and begins with a letter or a digit"))
        }
    }
}

impl InstanceId {
    /// The longest instance id, in bytes.
    pub const MAX_LEN: usize = 128;

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn check(text: &str) -> Result<(), BadName> {
        let bytes = text.as_bytes();
        if !bytes.is_empty() && bytes.len() <= Self::MAX_LEN && bytes.iter().copied().all(is_token_byte) {
            Ok(())
        } else {
            Err(BadName("an instance id is 1 to 128 of A-Z a-z 0-9 _ -"))
        }
    }

    /// The id of the process at `host` and `port`, the same after each restart, so that a restart replaces its own
    /// record: `10.0.0.5`, 8002 → `10_0_0_5-8002`.
    ///
    /// Two different addresses never share an id: letters, digits and `-` stand for themselves and a dot becomes `_`;
    /// any other host (an IPv6 address, an underscore, a very long name) gets a 64-bit FNV-1a hash of itself appended.
    #[must_use]
    pub fn at_address(host: &str, port: u16) -> Self {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        let mut token: String = host
            .chars()
            .take(100)
            .map(|c| {
                if c == '.' {
                    '_'
                } else if plain(c) {
                    c
                } else {
                    '-'
                }
            })
            .collect();
        if host.len() > 100 || !host.chars().all(plain) {
            token.push_str(&format!("_{:016x}", fnv1a(host.as_bytes())));
        }
        Self(format!("{token}-{port}"))
    }
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): small, and stable across versions, which std's hasher doesn't promise.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Checks a metric's name: `[A-Za-z0-9_.:-]{1,100}`.
///
/// # Errors
/// The rule, when the name breaks it.
pub fn check_metric_name(text: &str) -> Result<(), BadName> {
    let allowed = |byte: u8| is_token_byte(byte) || byte == b'.' || byte == b':';
    if (1..=100).contains(&text.len()) && text.bytes().all(allowed) {
        Ok(())
    } else {
        Err(BadName("a metric name is 1 to 100 of A-Z a-z 0-9 _ . : -"))
    }
}

macro_rules! text_name {
    ($name:ident) => {
        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                Self::check(text).map(|()| Self(text.to_owned()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = BadName;
            fn try_from(text: String) -> Result<Self, BadName> {
                Self::check(&text).map(|()| Self(text))
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_name!(ServiceName);
text_name!(InstanceId);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn grammar_of_service_names(text in "[A-Za-z0-9][A-Za-z0-9_-]{0,99}") {
            prop_assert!(text.parse::<ServiceName>().is_ok());
        }

        #[test]
        fn no_name_holds_a_separator(text in ".{0,140}") {
            let token = |t: &str| !t.is_empty() && t.bytes().all(is_token_byte);
            if let Ok(name) = text.parse::<ServiceName>() {
                prop_assert!(token(name.as_str()) && name.as_str().len() <= 100);
            }
            if let Ok(id) = text.parse::<InstanceId>() {
                prop_assert!(token(id.as_str()) && id.as_str().len() <= InstanceId::MAX_LEN);
            }
        }

        #[test]
        fn an_address_makes_a_valid_id(host in ".{1,300}", port: u16) {
            let id = InstanceId::at_address(&host, port);
            prop_assert!(InstanceId::check(id.as_str()).is_ok());
        }

        #[test]
        fn two_addresses_never_share_an_id(a in "[ab._:-]{1,6}", b in "[ab._:-]{1,6}", p in 1u16..3, q in 1u16..3) {
            prop_assume!((&a, p) != (&b, q));
            prop_assert_ne!(InstanceId::at_address(&a, p), InstanceId::at_address(&b, q));
        }
    }

    #[test]
    fn names_at_their_edges() {
        assert!("a".repeat(100).parse::<ServiceName>().is_ok());
        for bad in ["", "-a", "_a", "a.b", "a b", "*", ">", "ä", "a\0", &"a".repeat(101)] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad:?}");
        }
        assert!("-".repeat(128).parse::<InstanceId>().is_ok());
        for bad in ["", "a.b", &"a".repeat(129)] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad:?}");
        }
        assert_eq!(InstanceId::at_address("10.0.0.5", 8002).as_str(), "10_0_0_5-8002");
    }
}
