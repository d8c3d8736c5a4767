//! `kafka`: the brokers' metadata, from the first of the target's brokers that answers.
//!
//! The three messages that it takes are written here ([`wire`]). The client library fetches the metadata of all topics
//! and tries again without end, and the one that only encodes and decodes sets aside as much memory as a peer announces.

mod sasl;
mod wire;

use percent_encoding::percent_decode_str;

use super::dial::{Stream, host_and_port};
use super::{Answer, Failure, Shared, first_of};
use crate::domain::infra::Kind;
use sasl::Credentials;
use wire::Broker;

/// The port of a broker that is named without one.
const PORT: u16 = 9092;

/// A target as it is meant.
#[derive(Debug, PartialEq)]
struct Cluster {
    brokers: Vec<(String, u16)>,
    encrypted: bool,
    credentials: Option<Credentials>,
}

pub(super) async fn probe(text: &str, hub: &Shared) -> Result<Answer, Failure> {
    let cluster = Cluster::parse(text).ok_or_else(|| Failure::form(Kind::Kafka))?;
    let asked = cluster.brokers.iter().map(|(host, port)| Box::pin(cluster.ask(host, *port, hub)));
    first_of(asked.collect()).await
}

impl Cluster {
    fn parse(text: &str) -> Option<Self> {
        let (encrypted, rest) = match text.split_once("://") {
            None => (false, text),
            Some(("kafka", rest)) => (false, rest),
            Some(("kafka+ssl", rest)) => (true, rest),
            Some(_) => return None,
        };
        let (user, hosts) = match rest.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, rest),
        };
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let credentials = match user {
            Some(user) => {
                let (user, password) = user.split_once(':')?;
                Some(Credentials { user: decoded(user), password: decoded(password) })
            }
            None => None,
        };
        let brokers = hosts.trim_end_matches('/').split(',').map(|broker| host_and_port(broker, Some(PORT)));
        Some(Self { brokers: brokers.collect::<Option<_>>()?, encrypted, credentials })
    }

    async fn ask(&self, host: &str, port: u16, hub: &Shared) -> Result<Answer, Failure> {
        let connect = async || {
            let stream = hub.names.dial(host, port).await?;
            let stream: Box<dyn Stream> =
                if self.encrypted { Box::new(hub.tls.secure(host, stream).await?) } else { Box::new(stream) };
            Ok::<_, Failure>(Broker::new(stream))
        };
        let mut broker = connect().await?;
        if let Some(credentials) = &self.credentials {
            // A broker that is asked for a mechanism it hasn't tells which ones it has, and hangs up.
            let mut mechanism = sasl::MECHANISMS[0];
            if let Some(offered) = sasl::propose(&mut broker, mechanism).await? {
                mechanism = sasl::best_of(&offered)?;
                broker = connect().await?;
                if sasl::propose(&mut broker, mechanism).await?.is_some() {
                    return Err(Failure::down("it takes none of the SASL mechanisms that it offers"));
                }
            }
            sasl::authenticate(&mut broker, mechanism, credentials).await?;
        }
        let metadata = broker.metadata().await.map_err(|error| match (error, &self.credentials) {
            (wire::Error::Closed, None) => Failure::down("it closed the connection: does it want TLS or credentials?"),
            (error, _) => error.into(),
        })?;
        if metadata.brokers == 0 {
            return Ok(Answer::Impaired("it answers, but its metadata names no broker".into()));
        }
        if metadata.controller < 0 {
            return Ok(Answer::Impaired("it answers, but the cluster has no controller".into()));
        }
        Ok(Answer::Well)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let cluster = |brokers: &[(&str, u16)], encrypted, credentials: Option<(&str, &str)>| Cluster {
            brokers: brokers.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect(),
            encrypted,
            credentials: credentials
                .map(|(user, password)| Credentials { user: user.into(), password: password.into() }),
        };
        for (text, expected) in [
            ("a:1", cluster(&[("a", 1)], false, None)),
            ("a:1,b,[::1]:2", cluster(&[("a", 1), ("b", 9092), ("::1", 2)], false, None)),
            ("kafka://a,b:1/", cluster(&[("a", 9092), ("b", 1)], false, None)),
            ("kafka+ssl://u:p%40ss%3A@a:1,b:2", cluster(&[("a", 1), ("b", 2)], true, Some(("u", "p@ss:")))),
        ] {
            assert_eq!(Cluster::parse(text), Some(expected), "{text}");
        }
        for text in ["", "a:1,", "http://a:1", "kafka://", "kafka://u@a:1", "a:x", "a:1,b:2/x"] {
            assert_eq!(Cluster::parse(text), None, "{text}");
        }
    }
}
