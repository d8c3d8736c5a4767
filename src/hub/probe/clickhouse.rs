//! `clickhouse`: `SELECT 1` over its HTTP interface, which every version has.

use reqwest::{Response, Url};

use super::http::{failed, get, refused};
use super::{Answer, Failure, Shared};
use crate::domain::infra::Kind;

/// How much of an answer is looked at, in bytes.
const MAX_ANSWER: usize = 64;

pub(super) async fn probe(text: &str, hub: &Shared) -> Result<Answer, Failure> {
    let mut url = Url::parse(text).map_err(|_| Failure::form(Kind::Clickhouse))?;
    // Through GET it is read-only.
    url.query_pairs_mut().append_pair("query", "SELECT 1");
    let mut response = get(url, Kind::Clickhouse, hub).await?;
    if !response.status().is_success() {
        return Err(refused(response.status()));
    }
    let answer = beginning(&mut response).await?;
    if answer.trim_ascii() == b"1" {
        Ok(Answer::Well)
    } else {
        Err(Failure::down("it answers, but not as ClickHouse does: is this its HTTP port?"))
    }
}

async fn beginning(response: &mut Response) -> Result<Vec<u8>, Failure> {
    let mut answer = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        answer.extend_from_slice(chunk.get(..MAX_ANSWER).unwrap_or(&chunk));
        if answer.len() > MAX_ANSWER {
            break;
        }
    }
    Ok(answer)
}
