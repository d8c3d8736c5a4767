//! What the alert calls do.

use super::Hub;
use super::cursor::List;
use super::serve::{Call, explain};
use crate::wire::Error;
use crate::wire::alert::{Alert, AlertsAck, AlertsList, AlertsPage};

impl Hub {
    pub(super) async fn alerts_list(&self, request: AlertsList) -> Result<AlertsPage, Error> {
        let before = List::Alerts.place(request.cursor.as_deref(), |id| id.parse().ok())?;
        let limit = request.limit.unwrap_or(self.settings.borrow().limits.page_default);
        let rows = self.store.alerts_page(&request, before, limit).await;
        let (alerts, more) = self.page(rows.map_err(|error| explain(&error, "alerts list", None))?, limit);
        let last = alerts.last().map(|last| List::Alerts.cursor(last.id));
        Ok(AlertsPage { next_cursor: last.filter(|_| more), alerts })
    }

    pub(super) async fn alerts_ack(&self, request: AlertsAck, call: &Call) -> Result<Alert, Error> {
        let acked = self.store.ack_alert(&request, call.authenticated_as.as_deref()).await;
        let alert = acked.map_err(|error| explain(&error, "alerts ack", None))?;
        self.committed.notify_one();
        Ok(alert)
    }
}
