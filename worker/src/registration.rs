//! The worker's place in the roster, kept up to date while models change: [`keep_registered`].

use std::sync::Arc;

use futures_util::future::select_all;
use segfleet_common::{
    broker::{ServedModel, WorkerEntry},
    subject::Tenant,
};

use crate::{served::Served, worker::Worker};

/// Keeps the worker registered until it stops. A broker that does not let it register lets it work.
pub(crate) async fn keep_registered(
    worker: Arc<Worker>,
    tenants: Vec<Tenant>,
    models: Vec<Arc<Served>>,
    n_slots: usize,
) {
    let mut changes: Vec<_> = models.iter().map(|model| model.changes()).collect();
    while !worker.stopping.is_cancelled() {
        let entry = WorkerEntry {
            name: worker.name.to_string(),
            tenants: tenants.clone(),
            models: models.iter().map(|model| served(model)).collect(),
            n_slots: n_slots as u64,
        };
        let registration = match worker.broker.register(&entry).await {
            Ok(registration) => registration,
            Err(error) => {
                return tracing::warn!(%error, "`segfleet status` will not show this worker");
            }
        };
        // What a service says cannot be changed; it is withdrawn and made anew.
        let change = select_all(
            changes
                .iter_mut()
                .map(|changes| Box::pin(changes.changed())),
        );
        worker.stopping.run_until_cancelled(change).await;
        registration.withdraw().await;
    }
}

fn served(model: &Served) -> ServedModel {
    ServedModel {
        name: model.name.clone(),
        version: model.current().info().version.clone(),
    }
}
