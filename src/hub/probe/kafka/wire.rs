//! As much of Kafka's protocol as a probe needs: requests with their answers, and the cluster's metadata.
//!
//! The versions are the oldest that serve: brokers know them since 0.10 (2016; SASL: 1.0), and the newest still do.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::super::Failure;
use super::super::dial::Stream;

/// The longest answer, in bytes: metadata without topics has about a hundred for each broker.
const MAX_ANSWER: usize = 1024 * 1024;

/// What a request asks for: its key and version.
pub(super) type Api = (i16, i16);

const METADATA: Api = (3, 1);

/// How the hub calls itself.
const CLIENT_ID: &str = "central-hub";

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Error {
    /// The broker ended the connection.
    Closed,
    /// The connection broke.
    Io(std::io::Error),
    /// What came is no answer of this protocol.
    Foreign,
}

/// What matters of a cluster's metadata.
#[derive(Debug, PartialEq)]
pub(super) struct Metadata {
    pub brokers: usize,
    /// The controller's id; -1 when there is none.
    pub controller: i32,
}

/// A connection to a broker.
pub(super) struct Broker {
    stream: Box<dyn Stream>,
    /// Ties an answer to its request.
    correlation: i32,
}

impl Broker {
    pub fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, correlation: 0 }
    }

    /// Sends a request and waits for its answer: what follows the header.
    pub async fn request(&mut self, (key, version): Api, body: &[u8]) -> Result<Vec<u8>, Error> {
        self.correlation += 1;
        let mut request = Vec::new();
        request.extend(key.to_be_bytes());
        request.extend(version.to_be_bytes());
        request.extend(self.correlation.to_be_bytes());
        put_text(&mut request, CLIENT_ID);
        request.extend(body);
        let mut framed = u32::try_from(request.len()).map_err(|_| Error::Foreign)?.to_be_bytes().to_vec();
        framed.extend(request);
        self.stream.write_all(&framed).await?;
        self.stream.flush().await?;

        let length = self.stream.read_u32().await? as usize;
        if !(4..=MAX_ANSWER).contains(&length) {
            return Err(Error::Foreign);
        }
        if self.stream.read_i32().await? != self.correlation {
            return Err(Error::Foreign);
        }
        let mut answer = vec![0; length - 4];
        self.stream.read_exact(&mut answer).await?;
        Ok(answer)
    }

    /// Asks for the brokers and for no topic.
    pub async fn metadata(&mut self) -> Result<Metadata, Error> {
        let no_topics = 0i32.to_be_bytes();
        let answer = self.request(METADATA, &no_topics).await?;
        metadata_from(&answer).ok_or(Error::Foreign)
    }
}

fn metadata_from(answer: &[u8]) -> Option<Metadata> {
    let mut rest = Reader(answer);
    let brokers = rest.i32()?;
    for _ in 0..brokers {
        let _id = rest.i32()?;
        rest.text()?;
        let _port = rest.i32()?;
        let _rack = rest.text()?;
    }
    Some(Metadata { brokers: usize::try_from(brokers).ok()?, controller: rest.i32()? })
}

/// Appends a text with its length.
pub(super) fn put_text(to: &mut Vec<u8>, text: &str) {
    // All that a probe sends is short.
    let length = i16::try_from(text.len()).unwrap_or(i16::MAX);
    to.extend(length.to_be_bytes());
    to.extend(text.bytes().take(length.unsigned_abs().into()));
}

/// Takes values off the front of an answer; `None` when it is too short for one.
pub(super) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn i16(&mut self) -> Option<i16> {
        self.take(2)?.try_into().ok().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Option<i32> {
        self.take(4)?.try_into().ok().map(i32::from_be_bytes)
    }

    /// A text, empty when it is null.
    pub fn text(&mut self) -> Option<&'a str> {
        match self.i16()? {
            -1 => Some(""),
            length => std::str::from_utf8(self.take(usize::try_from(length).ok()?)?).ok(),
        }
    }

    /// Bytes, none when they are null.
    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        match self.i32()? {
            -1 => Some(&[]),
            length => self.take(usize::try_from(length).ok()?),
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Closed => Self::down("it closed the connection"),
            Error::Io(error) => Self::io(&error),
            Error::Foreign => Self::down("it answers, but not as Kafka does: does it want TLS?"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Two brokers, the second in a rack; controller 2; no topics.
    const TWO: &[u8] = b"\0\0\0\x02\
        \0\0\0\x01\0\x01a\0\0\x23\x84\xff\xff\
        \0\0\0\x02\0\x01b\0\0\x23\x84\0\x02r1\
        \0\0\0\x02\0\0\0\0";

    #[test]
    fn metadata_is_read() {
        assert_eq!(metadata_from(TWO), Some(Metadata { brokers: 2, controller: 2 }));
        let none = b"\0\0\0\0\xff\xff\xff\xff\0\0\0\0";
        assert_eq!(metadata_from(none), Some(Metadata { brokers: 0, controller: -1 }));
    }

    proptest! {
        #[test]
        fn what_a_peer_announces_is_not_believed(bytes in proptest::collection::vec(any::<u8>(), 0..80), count: i32) {
            let _ = metadata_from(&bytes);
            let announced = [&count.to_be_bytes()[..], &bytes].concat();
            let _ = metadata_from(&announced);
            let mut reader = Reader(&bytes);
            while reader.text().is_some() || reader.bytes().is_some() {}
        }

        #[test]
        fn a_cut_answer_is_none(length in 0..TWO.len() - 4) {
            prop_assert_eq!(metadata_from(&TWO[..length]), None);
        }
    }

    #[tokio::test]
    async fn a_request_is_framed_and_its_answer_is_tied_to_it() {
        for (answer, fine) in [
            (&b"\0\0\0\x06\0\0\0\x01ok"[..], true),
            (b"\0\0\0\x06\0\0\0\x02ok", false),
            (b"\0\0\0\x03\0\0\0", false),
            (b"HTTP/1.1 400 Bad Request", false),
            (b"\x15\x03\x03\0\x02\x02\x28", false),
            (b"\0\0\0\x06\0\0\0\x01o", false),
        ] {
            let (ours, mut theirs) = tokio::io::duplex(256);
            theirs.write_all(answer).await.unwrap();
            let mut broker = Broker::new(Box::new(ours));
            let serve = async {
                let mut request = vec![0; 4];
                theirs.read_exact(&mut request).await.unwrap();
                request.resize(u32::from_be_bytes(request[..].try_into().unwrap()) as usize, 0);
                theirs.read_exact(&mut request).await.unwrap();
                drop(theirs);
                request
            };
            let (result, request) = tokio::join!(broker.request((3, 1), b"body"), serve);
            assert_eq!(request, b"\0\x03\0\x01\0\0\0\x01\0\x0bcentral-hubbody");
            assert_eq!(result.ok(), fine.then(|| b"ok".to_vec()), "{answer:?}");
        }
    }
}
