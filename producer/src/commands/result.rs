//! `segfleet result`.

use std::time::Duration;

use segfleet_common::{args::View, broker::Broker, result::Outcome, wire};

use super::{CommandError, Exit, remark, say};
use crate::{client::Client, config::ResultArgs, output::Table};

pub(super) async fn run(broker: Broker, args: ResultArgs) -> Result<Exit, CommandError> {
    let ResultArgs {
        job,
        tenant,
        format,
        wait,
    } = args;
    let client = Client::over(broker, tenant.tenant);
    let mut received = client.fetch(&job).await?;
    if received.is_none() && wait {
        let pending = client.expect(job.clone()).await?;
        received = Some(client.wait(pending).await?);
    }
    let Some(received) = received else {
        remark(&format!(
            "job {job} has no result: it is queued or running, has expired, or never was"
        ));
        return Ok(Exit::NotOk);
    };
    match format {
        View::Json => say(&wire::result_to_json(&received.result)),
        View::Table => {
            let table = Table::for_files([job.as_str()].into_iter());
            // The fleet's own time: the client was not there.
            let time = received.result.timings.values().sum::<Duration>();
            say(&table.header());
            say(&table.row(job.as_str(), &received.result, time));
        }
    }
    Ok(if matches!(received.result.outcome, Outcome::Ok(_)) {
        Exit::Ok
    } else {
        Exit::NotOk
    })
}
