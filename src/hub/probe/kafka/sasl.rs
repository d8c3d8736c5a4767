//! Credentials for a broker, through SASL: SCRAM, or PLAIN where there is nothing better.

use rsasl::prelude::{Mechname, SASLClient, SASLConfig};

use super::super::Failure;
use super::wire::{Api, Broker, Error, Reader, put_text};

/// The mechanisms that are taken, best first.
pub(super) const MECHANISMS: [&str; 3] = ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"];

const HANDSHAKE: Api = (17, 1);
const AUTHENTICATE: Api = (36, 0);

/// Kafka's code for a mechanism that the broker hasn't.
const UNSUPPORTED_MECHANISM: i16 = 33;

/// Messages that an exchange has at the most; SCRAM has two.
const MAX_MESSAGES: usize = 4;

/// Who the hub is to a broker.
#[derive(PartialEq)]
pub(super) struct Credentials {
    pub user: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

/// Proposes a mechanism. `None` when the broker takes it, else those that it has.
pub(super) async fn propose(broker: &mut Broker, mechanism: &str) -> Result<Option<Vec<String>>, Failure> {
    let mut body = Vec::new();
    put_text(&mut body, mechanism);
    let answer = broker.request(HANDSHAKE, &body).await?;
    match handshake_from(&answer).ok_or(Error::Foreign)? {
        (0, _) => Ok(None),
        (UNSUPPORTED_MECHANISM, offered) => Ok(Some(offered)),
        (code, _) => Err(Failure::Down(format!("it doesn't take credentials here: error {code}"))),
    }
}

fn handshake_from(answer: &[u8]) -> Option<(i16, Vec<String>)> {
    let mut rest = Reader(answer);
    let code = rest.i16()?;
    let mut offered = Vec::new();
    for _ in 0..rest.i32()? {
        offered.push(rest.text()?.to_owned());
    }
    Some((code, offered))
}

/// The best of the mechanisms that a broker has.
pub(super) fn best_of(offered: &[String]) -> Result<&'static str, Failure> {
    let known = MECHANISMS.into_iter().find(|known| offered.iter().any(|offered| offered == known));
    known.ok_or_else(|| Failure::Down(format!("it has none of the SASL mechanisms {}", MECHANISMS.join(", "))))
}

/// Runs the exchange of a mechanism that the broker has taken.
pub(super) async fn authenticate(
    broker: &mut Broker,
    mechanism: &'static str,
    credentials: &Credentials,
) -> Result<(), Failure> {
    // The library's own words might hold what it was given. In SCRAM a refusal comes inside the exchange.
    let failed = || Failure::down("it refused the credentials");
    let config = SASLConfig::with_credentials(None, credentials.user.clone(), credentials.password.clone());
    let name = Mechname::parse(mechanism.as_bytes()).map_err(|_| failed())?;
    let mut session = SASLClient::new(config.map_err(|_| failed())?).start_suggested(&[name]).map_err(|_| failed())?;
    let mut received = None;
    for _ in 0..MAX_MESSAGES {
        let mut message = Vec::new();
        let state = session.step(received.as_deref(), &mut message).map_err(|_| failed())?;
        if state.has_sent_message() {
            let mut body = i32::try_from(message.len()).map_err(|_| failed())?.to_be_bytes().to_vec();
            body.extend(message);
            let answer = broker.request(AUTHENTICATE, &body).await?;
            received = Some(challenge_from(&answer).ok_or(Error::Foreign)??);
        }
        if state.is_finished() {
            return Ok(());
        }
    }
    Err(failed())
}

/// What the broker says next; the code of its refusal is the same for all that can be wrong.
fn challenge_from(answer: &[u8]) -> Option<Result<Vec<u8>, Failure>> {
    let mut rest = Reader(answer);
    let (code, _message) = (rest.i16()?, rest.text()?);
    if code != 0 {
        return Some(Err(Failure::down("it refused the credentials")));
    }
    Some(Ok(rest.bytes()?.to_vec()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_best_that_a_broker_has_is_taken() {
        let best = |offered: &[&str]| best_of(&offered.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(best(&["PLAIN", "SCRAM-SHA-256"]).unwrap(), "SCRAM-SHA-256");
        assert_eq!(best(&["GSSAPI", "PLAIN"]).unwrap(), "PLAIN");
        assert!(best(&["GSSAPI"]).is_err() && best(&[]).is_err());
    }

    #[test]
    fn answers_are_read() {
        let handshake = b"\0\x21\0\0\0\x02\0\x05PLAIN\0\x06GSSAPI";
        assert_eq!(handshake_from(handshake), Some((33, vec!["PLAIN".into(), "GSSAPI".into()])));
        assert_eq!(challenge_from(b"\0\0\xff\xff\0\0\0\x02ab").unwrap().unwrap(), b"ab");
        assert!(challenge_from(b"\0\x3a\0\x03bad\0\0\0\0").unwrap().is_err());
    }

    proptest! {
        #[test]
        fn what_a_peer_announces_is_not_believed(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = (handshake_from(&bytes), challenge_from(&bytes));
        }
    }
}
