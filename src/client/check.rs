//! Checks a config before it is in force: it must fit the application's type, and the application may look at it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::task::on_a_thread;

/// What an application says to a config.
pub(super) type Hook<T> = Arc<dyn Fn(&T) -> Result<(), String> + Send + Sync>;

/// A config that was checked, or why it can't be in force. The text may quote values.
pub(super) type Checked<T> = Result<T, String>;

/// Starts a check, on a thread of its own: the application's part may take its time, or never end.
pub(super) fn start<T>(config: Map<String, Value>, hook: Option<Hook<T>>) -> oneshot::Receiver<Checked<T>>
where
    T: DeserializeOwned + Send + 'static,
{
    on_a_thread("config-check", move || {
        let checked = catch_unwind(AssertUnwindSafe(|| check(config, hook.as_ref())));
        checked.unwrap_or_else(|panic| Err(format!("the check panicked: {}", told(&*panic))))
    })
}

fn check<T: DeserializeOwned>(config: Map<String, Value>, hook: Option<&Hook<T>>) -> Checked<T> {
    let value: T = serde_path_to_error::deserialize(Value::Object(config)).map_err(|error| match error.path() {
        path if path.iter().next().is_none() => error.inner().to_string(),
        path => format!("{path}: {}", error.inner()),
    })?;
    if let Some(hook) = hook {
        hook(&value)?;
    }
    Ok(value)
}

fn told(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it didn't say why")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Settings {
        limits: Vec<u8>,
    }

    async fn checked(config: Value, hook: Option<Hook<Settings>>) -> Checked<Settings> {
        let Value::Object(config) = config else { unreachable!() };
        start(config, hook).await.unwrap()
    }

    #[tokio::test]
    async fn what_does_not_fit_is_told_with_its_place() {
        assert_eq!(checked(json!({"limits": [1, 2]}), None).await, Ok(Settings { limits: vec![1, 2] }));
        let error = checked(json!({"limits": [1, 300]}), None).await.unwrap_err();
        assert!(error.starts_with("limits[1]: invalid value"), "{error}");
        assert_eq!(checked(json!({}), None).await.unwrap_err(), "missing field `limits`");
    }

    #[tokio::test]
    async fn a_check_may_refuse_and_panic() {
        let refuses: Hook<Settings> = Arc::new(|_| Err("too few".into()));
        assert_eq!(checked(json!({"limits": []}), Some(refuses)).await.unwrap_err(), "too few");
        let panics: Hook<Settings> = Arc::new(|settings| panic!("no limit: {}", settings.limits.len()));
        assert_eq!(checked(json!({"limits": []}), Some(panics)).await.unwrap_err(), "the check panicked: no limit: 0");
    }
}
