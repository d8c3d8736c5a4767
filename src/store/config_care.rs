//! What the leader does for configs: has instances run what is due, and forgets what is old.

use super::lease::Patience;
use super::outbox::NewEvent;
use super::registry::service_in;
use super::row::{Columns as _, readable};
use super::{Store, StoreError, Tx, sql};
use crate::domain::lease::Token;
use crate::domain::settings::Retention;
use crate::wire::event::{Kind, Topic};

impl Store {
    /// Has the instances run what is committed and not pushed yet: what was written by hand, and what a change freeze
    /// held back when it is over (`frozen`: it isn't). By the leader with `token`; tells whether anything was due.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn push_configs(&self, token: Token, frozen: bool) -> Result<bool, StoreError> {
        let input = (token, frozen);
        self.run_tx("config push", input, |tx, (token, frozen)| Box::pin(push_in(tx, *token, *frozen))).await
    }

    /// Removes the versions of all services that needn't be kept; by the leader with `token`.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn prune_configs(&self, token: Token, retention: Retention) -> Result<(), StoreError> {
        let input = (token, retention);
        self.run_tx("config prune", input, |tx, (token, retention)| Box::pin(prune_in(tx, *token, *retention))).await
    }

    /// Forgets answers to requests with an id after their ten minutes.
    ///
    /// # Errors
    /// What Postgres says.
    pub async fn forget_requests(&self) -> Result<(), StoreError> {
        self.query(sql::CONFIG_REQUEST_PRUNE, &[]).await.map(|_| ())
    }
}

async fn push_in(tx: &Tx<'_>, token: Token, frozen: bool) -> Result<bool, StoreError> {
    if !tx.leads(token, Patience::Brief).await? {
        return Ok(false);
    }
    let rows = tx.query(sql::CONFIG_HEAD_PUSH, &[&frozen]).await?;
    let pushed = readable("configs", &rows, |row| {
        let (revision, version): (i64, Option<i64>) = (row.read("revision")?, row.read("version")?);
        Ok(NewEvent {
            topic: Topic::Config,
            kind: Kind::Pushed,
            service_name: service_in(row)?,
            instance_id: None,
            details: super::object(serde_json::json!({ "revision": revision, "version": version })),
        })
    });
    tx.record(&pushed).await?;
    Ok(!pushed.is_empty())
}

async fn prune_in(tx: &Tx<'_>, token: Token, retention: Retention) -> Result<(), StoreError> {
    if tx.leads(token, Patience::Brief).await? {
        tx.prune_configs(None, retention).await?;
    }
    Ok(())
}

impl Tx<'_> {
    /// Removes the versions of a service (`None`: of each) that needn't be kept.
    pub(super) async fn prune_configs(&self, service: Option<&str>, kept: Retention) -> Result<(), StoreError> {
        self.execute(sql::CONFIG_PRUNE, &[&service, &kept.newest, &kept.undo]).await.map(|_| ())
    }
}
