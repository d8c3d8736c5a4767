//! `central-hub config watch`: each change as it lands in KV.

use std::collections::HashMap;

use async_nats::jetstream;
use async_nats::jetstream::kv::Operation;
use futures_util::StreamExt as _;
use serde_json::Value;

use super::diff;
use crate::cli::chain;
use crate::cli::session::{Failure, Session};
use crate::domain::config::Position;
use crate::domain::name::ServiceName;
use crate::wire::bucket::{Bucket, ConfigEntry};

/// Prints each new config until it is interrupted: what it changed, where the one before was seen.
///
/// # Errors
/// [`Failure`].
pub async fn run(session: &Session, service: Option<&ServiceName>) -> Result<(), Failure> {
    let bucket = Bucket::Config.name(&session.bucket_prefix);
    let unreadable =
        |error: &dyn std::error::Error| Failure::NoAnswer(format!("{bucket} can't be watched: {}", chain(error)));
    let kv = jetstream::new(session.hub.nats().clone()).get_key_value(&bucket).await;
    let kv = kv.map_err(|error| unreadable(&error))?;
    let filter = service.map_or(">", ServiceName::as_str);
    let mut entries = kv.watch_with_history(filter).await.map_err(|error| unreadable(&error))?;
    let mut seen: HashMap<ServiceName, (Position, String)> = HashMap::new();
    while let Some(entry) = entries.next().await {
        // The watch mends itself after an error; and only what the hub put says anything about a config.
        let Ok(entry) = entry else { continue };
        if entry.operation != Operation::Put {
            continue;
        }
        let Ok(config) = serde_json::from_slice::<ConfigEntry>(&entry.value) else { continue };
        let before = seen.get(&config.service_name);
        if before.is_some_and(|(position, _)| *position >= config.position()) {
            continue;
        }
        let text = match &config.config {
            Some(content) => super::pretty_json(&serde_json::from_str::<Value>(content.get()).unwrap_or_default()),
            None => String::new(),
        };
        session.out.print(&config, |out| {
            let service = &config.service_name;
            let version = config.version.map_or_else(|| "deleted".into(), |version| format!("v{version}"));
            let head = format!("{service} {version}, revision {}, by {}", config.revision, config.created_by);
            match before {
                None => format!("{head}\n{text}"),
                Some((_, before)) => {
                    format!("{head}\n{}\n", diff::unified(("before", before), ("now", &text), out))
                }
            }
        })?;
        seen.insert(config.service_name.clone(), (config.position(), text));
    }
    Ok(())
}
