//! Where a component is: what its settings say, with the variables of the hub's environment in their places.

use std::collections::BTreeMap;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use super::on_one_line;
use crate::domain::infra::{Component, Kind};
use crate::domain::target::{VARIABLE_PREFIX, user_part};

/// The variable that names a PEM file of certificates for probes to trust, instead of the system's.
pub(super) const CA_VARIABLE: &str = "CENTRAL_HUB_PROBE_TLS_CA";

/// The variables of the hub's environment that tell targets and their credentials. Each may also be given as `…_FILE`, the
/// path of a file that holds the value, which is read at each probe.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

/// Where to ask.
pub(super) enum Place {
    /// Where the hub's own connections go.
    Own,
    /// Somewhere else.
    At(Located),
}

/// A target to connect to.
pub(super) struct Located {
    /// The target, with credentials.
    pub text: String,
    /// What no message may hold.
    secrets: Vec<String>,
}

impl Environment {
    /// The variables of this process that are meant for probes.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The file of certificates to trust, if there is one.
    pub(super) fn tls_ca(&self) -> Option<PathBuf> {
        self.0.get(CA_VARIABLE).map(PathBuf::from)
    }

    /// The value of a variable, from itself or from its file.
    async fn value_of(&self, variable: &str) -> Result<Option<String>, String> {
        if let Some(value) = self.0.get(variable) {
            return Ok(Some(value.clone()));
        }
        let from_file = format!("{variable}_FILE");
        let Some(path) = self.0.get(&from_file) else { return Ok(None) };
        match tokio::fs::read_to_string(path).await {
            Ok(text) => Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned())),
            Err(error) => Err(format!("the file that {from_file} names can't be read: {}", error.kind())),
        }
    }

    /// Where a component is.
    ///
    /// # Errors
    /// What the hub wasn't told.
    pub(super) async fn locate(&self, component: &Component) -> Result<Place, String> {
        let kind = component.kind;
        let Some(target) = &component.target else {
            if kind.is_the_hubs_own() {
                return Ok(Place::Own);
            }
            let no_target = || match kind.target_variable() {
                Some(variable) => format!("no target: set one in the hub's settings, or {variable} in its environment"),
                None => "no target: set one in the hub's settings".into(),
            };
            let variable = kind.target_variable().ok_or_else(no_target)?;
            let text = self.value_of(variable).await?.ok_or_else(no_target)?;
            return Ok(Place::At(Located::new(kind, text, Vec::new())));
        };
        let mut values = BTreeMap::new();
        for variable in target.variables() {
            if let Some(value) = self.value_of(variable).await? {
                values.insert(variable.to_owned(), value);
            }
        }
        let text = target.resolve(|variable| values.get(variable).cloned()).map_err(|unset| unset.to_string())?;
        // A whole target from one variable: that it names a host is no secret.
        let whole = values.values().any(|value| *value == text);
        let secrets = if whole { Vec::new() } else { values.into_values().collect() };
        Ok(Place::At(Located::new(kind, text, secrets)))
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<T: IntoIterator<Item = (String, String)>>(variables: T) -> Self {
        let meant_for_probes = |name: &str| {
            let name = name.strip_suffix("_FILE").unwrap_or(name);
            name.starts_with(VARIABLE_PREFIX) || Kind::ALL.iter().any(|kind| kind.target_variable() == Some(name))
        };
        Self(variables.into_iter().filter(|(name, value)| meant_for_probes(name) && !value.is_empty()).collect())
    }
}

impl Located {
    /// `secrets` are the values that were put into the text.
    fn new(kind: Kind, text: String, mut secrets: Vec<String>) -> Self {
        for url in text.split(',') {
            let user = user_part(url).and_then(|part| url.get(part)).unwrap_or_default();
            let secret = match user.split_once(':') {
                Some((_, password)) => password,
                None if kind == Kind::Nats => user,
                None => "",
            };
            secrets.push(secret.to_owned());
            secrets.push(percent_decode_str(secret).decode_utf8_lossy().into_owned());
        }
        secrets.retain(|secret| !secret.is_empty());
        Self { text, secrets }
    }
}

impl Place {
    /// A message as it may be stored and shown. Components and libraries are asked to name no credential; should one do
    /// it all the same, nothing of the message is left.
    pub(super) fn for_people(&self, message: &str) -> String {
        match self {
            Self::At(located) if located.secrets.iter().any(|secret| message.contains(secret.as_str())) => {
                "it failed; what it said is withheld, since it holds a credential".into()
            }
            _ => on_one_line(message),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    async fn located(item: serde_json::Value, variables: &[(&str, &str)]) -> Result<Located, String> {
        let component = serde_json::from_value(item).unwrap();
        match environment(variables).locate(&component).await? {
            Place::At(located) => Ok(located),
            Place::Own => Err("the hub's own".into()),
        }
    }

    #[tokio::test]
    async fn targets_come_from_the_settings_else_from_the_environment() {
        let text = async |item, variables: &[(&str, &str)]| located(item, variables).await.map(|located| located.text);
        let brokers = [("CENTRAL_HUB_KAFKA_BROKERS", "a:9092,b:9092")];
        assert_eq!(text(json!("kafka"), &brokers).await.unwrap(), "a:9092,b:9092");
        let written = json!({ "name": "kafka", "target": "c:9092" });
        assert_eq!(text(written, &brokers).await.unwrap(), "c:9092");
        let other = json!({ "name": "events", "kind": "kafka" });
        assert_eq!(text(other, &brokers).await.unwrap(), "a:9092,b:9092");
        for own in ["postgresql", "nats"] {
            assert_eq!(text(json!(own), &[]).await.unwrap_err(), "the hub's own");
        }
        for (item, told) in [
            (json!("kafka"), "CENTRAL_HUB_KAFKA_BROKERS"),
            (json!("clickhouse"), "CENTRAL_HUB_CLICKHOUSE_URL"),
            (json!("redis"), "CENTRAL_HUB_REDIS_URL"),
            (json!({ "name": "web", "kind": "http" }), "settings"),
            (
                json!({ "name": "redis", "target": "redis://:${env:CENTRAL_HUB_PROBE_P}@a" }),
                "CENTRAL_HUB_PROBE_P is not set",
            ),
        ] {
            let message = text(item, &[("CENTRAL_HUB_KAFKA_BROKERS", "")]).await.unwrap_err();
            assert!(message.contains(told), "{message}");
        }
    }

    #[tokio::test]
    async fn files_hold_values_too_and_only_what_is_meant_for_probes_is_kept() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "p@ss\n").unwrap();
        let path = file.path().to_str().unwrap();
        let item = json!({ "name": "redis", "target": "redis://:${env:CENTRAL_HUB_PROBE_P}@a" });
        let variables = [("CENTRAL_HUB_PROBE_P_FILE", path), ("CENTRAL_HUB_DB_PASSWORD", "x"), ("HOME", "/")];
        assert_eq!(located(item.clone(), &variables).await.unwrap().text, "redis://:p%40ss@a");
        assert_eq!(environment(&variables).0.len(), 1);
        let missing = located(item, &[("CENTRAL_HUB_PROBE_P_FILE", "/no/such/file")]).await.err().unwrap();
        assert!(missing.contains("CENTRAL_HUB_PROBE_P_FILE") && !missing.contains("/no/such"), "{missing}");
    }

    #[tokio::test]
    async fn a_message_with_a_credential_is_withheld() {
        for (item, secrets, fine) in [
            (
                json!({ "name": "a", "kind": "redis", "target": "redis://u:${env:CENTRAL_HUB_PROBE_X}@host" }),
                &["hush/hush", "hush%2Fhush"][..],
                "u at host: refused",
            ),
            (
                json!({ "name": "a", "kind": "http", "target": "http://host/${env:CENTRAL_HUB_PROBE_X}" }),
                &["hush/hush"],
                "host",
            ),
            (
                json!({ "name": "a", "kind": "redis", "target": "${env:CENTRAL_HUB_PROBE_Y}" }),
                &["hoosh", "h%6Fosh"],
                "host",
            ),
            (json!("redis"), &["hash"], "host"),
            (
                json!({ "name": "a", "kind": "nats", "target": "nats://b,nats://${env:CENTRAL_HUB_PROBE_X}@host" }),
                &["hush/hush"],
                "host",
            ),
        ] {
            let variables = [
                ("CENTRAL_HUB_PROBE_X", "hush/hush"),
                ("CENTRAL_HUB_PROBE_Y", "redis://u:h%6Fosh@host"),
                ("CENTRAL_HUB_REDIS_URL", "redis://u:hash@host"),
            ];
            let place = Place::At(located(item, &variables).await.unwrap());
            for secret in secrets {
                let shown = place.for_people(&format!("can't connect to {secret}"));
                assert!(shown.contains("withheld") && !shown.contains(secret), "{shown}");
            }
            assert_eq!(place.for_people(fine), fine);
        }
    }
}
