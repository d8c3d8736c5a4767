//! `central-hub epoch raise`: tell all clients that the database went back.

use clap::{Args, Subcommand};

use super::options::DatabaseArgs;
use super::serve::ServeError;
use crate::hub::HubError;
use crate::store::Store;

/// Raise the epoch by hand, after restoring PostgreSQL from an older copy
///
/// Clients take no config that is older than what they have. After a restore the hub counts revisions again that clients
/// have seen; a higher epoch makes them newer than those. The hub notices most restores by itself.
#[derive(Args, Clone, Debug)]
pub struct EpochArgs {
    #[command(subcommand)]
    action: EpochAction,
}

#[derive(Clone, Debug, Subcommand)]
enum EpochAction {
    /// Raise it, and say what it is now
    Raise {
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

/// Raises the epoch, and gives the new one.
///
/// # Errors
/// [`ServeError`].
pub async fn raise(args: EpochArgs) -> Result<i64, ServeError> {
    let EpochAction::Raise { database } = args.action;
    let store = Store::new(&database.options()?, "cli", 4).map_err(HubError::from)?;
    let epoch = store.epoch().await.map_err(HubError::from)?;
    match store.raise_epoch(epoch, epoch, "by hand").await.map_err(HubError::from)? {
        Some(raised) => Ok(raised),
        // Somebody else was faster, which is as good.
        None => Ok(store.epoch().await.map_err(HubError::from)?),
    }
}
