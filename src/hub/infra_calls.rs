//! What the infrastructure calls do.

use std::collections::HashMap;

use time::OffsetDateTime;

use super::Hub;
use super::serve::explain;
use crate::store::StoreError;
use crate::store::infra::Checked;
use crate::wire::infra::{Component, Infra, InfraCheck, InfraStatus};
use crate::wire::uptime::{DEFAULT_WINDOW_SECONDS, UptimeKind};
use crate::wire::{Error, ErrorCode};

impl Hub {
    pub(super) async fn infra_status(&self, _: InfraStatus) -> Result<Infra, Error> {
        let failed = |error| explain(&error, "infra status", None);
        let components = self.store.components().await.map_err(failed)?;
        Ok(Infra { components: self.with_uptimes(components).await.map_err(failed)? })
    }

    /// What was just found, told even when it is PostgreSQL that is away.
    pub(super) async fn infra_check(&self, _: InfraCheck) -> Result<Infra, Error> {
        let inspected = self.inspector.inspect().await;
        if let Some(error) = inspected.unkept {
            tracing::debug!(cause = %error.chain(), "a round of checks will be stored later");
        } else if let Ok(components) = self.store.components().await
            && let Ok(components) = self.with_uptimes(components).await
        {
            return Ok(Infra { components });
        }
        let mut components: Vec<Component> = inspected.checked.iter().map(as_told).collect();
        components.sort_by(|a, b| a.component_name.cmp(&b.component_name));
        Ok(Infra { components })
    }

    /// The components with their uptimes of the last 24 hours.
    pub(super) async fn with_uptimes(&self, mut components: Vec<Component>) -> Result<Vec<Component>, StoreError> {
        let names: Vec<&str> = components.iter().map(|component| component.component_name.as_str()).collect();
        let found = self.store.uptimes_of(UptimeKind::Component, &names, DEFAULT_WINDOW_SECONDS).await;
        let (uptimes, _) = match found {
            // Those that flap too much to be added up are told all the same.
            Err(StoreError::Refused(refusal)) if refusal.code == ErrorCode::TooLarge => (Vec::new(), true),
            found => found?,
        };
        let uptimes: HashMap<_, _> =
            uptimes.into_iter().map(|uptime| (uptime.service_name, uptime.uptime_pct)).collect();
        for component in &mut components {
            component.uptime_pct_24h = uptimes.get(&component.component_name).copied().flatten();
        }
        Ok(components)
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
