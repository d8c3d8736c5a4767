//! What the infrastructure calls do.

use time::OffsetDateTime;

use super::Hub;
use super::serve::explain;
use crate::store::infra::Checked;
use crate::wire::Error;
use crate::wire::infra::{Component, Infra, InfraCheck, InfraStatus};

impl Hub {
    pub(super) async fn infra_status(&self, _: InfraStatus) -> Result<Infra, Error> {
        let components = self.store.components().await.map_err(|error| explain(&error, "infra status", None))?;
        Ok(Infra { components })
    }

    /// What was just found, told even when it is PostgreSQL that is away.
    pub(super) async fn infra_check(&self, _: InfraCheck) -> Result<Infra, Error> {
        let inspected = self.inspector.inspect().await;
        if let Some(error) = inspected.unkept {
            tracing::debug!(cause = %error.chain(), "a round of checks will be stored later");
        } else if let Ok(components) = self.store.components().await {
            return Ok(Infra { components });
        }
        let mut components: Vec<Component> = inspected.checked.iter().map(as_told).collect();
        components.sort_by(|a, b| a.component_name.cmp(&b.component_name));
        Ok(Infra { components })
    }
}

fn as_told(checked: &Checked) -> Component {
    Component {
        component_name: checked.name.clone(),
        kind: checked.kind.into(),
        status: checked.status,
        response_time_ms: checked.response_time_ms,
        error_message: checked.error_message.clone(),
        checked_at: OffsetDateTime::now_utc() - checked.at.elapsed(),
        critical: checked.critical,
        uptime_pct_24h: None,
    }
}
