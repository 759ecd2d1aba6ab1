//! `segfleet cancel`.

use segfleet_common::{broker::Broker, subject::JobId, wire::CancelStatus};

use super::{CommandError, Exit, remark, say};
use crate::{
    cancel::{CancelError, cancel},
    config::CancelArgs,
};

pub(super) async fn run(broker: &Broker, args: &CancelArgs) -> Result<Exit, CommandError> {
    let mut exit = Exit::Ok;
    for job in &args.jobs {
        match cancel(broker, &args.tenant.tenant, job, args.timeout).await {
            Ok(status) => {
                say(&sentence(job, status));
                if status != CancelStatus::Cancelled && exit == Exit::Ok {
                    exit = Exit::NotOk;
                }
            }
            // The others would hear the same.
            Err(error @ CancelError::NoSteward) => return Err(error.into()),
            Err(error) => {
                remark(&format!("error: {error}"));
                exit = Exit::Broker;
            }
        }
    }
    Ok(exit)
}

fn sentence(job: &JobId, status: CancelStatus) -> String {
    let ending = match status {
        CancelStatus::Cancelled => return format!("job {job} is cancelled"),
        CancelStatus::NotFound => {
            return format!(
                "job {job} is unknown: it is not queued, and has no result or no longer"
            );
        }
        CancelStatus::Ok => "ok",
        CancelStatus::Error => "error",
        CancelStatus::Expired => "expired",
        CancelStatus::Unreadable => "with a result that cannot be read",
    };
    format!("job {job} is answered already: {ending}")
}
