//! `segfleet status`.

use segfleet_common::broker::Broker;
use time::OffsetDateTime;

use super::{CommandError, Exit, remark, say};
use crate::{config::TenantArgs, output};

pub(super) async fn run(broker: &Broker, args: &TenantArgs) -> Result<Exit, CommandError> {
    let streams = broker.status(&args.tenant).await?;
    let missing = streams.iter().any(Option::is_none);
    let streams: Vec<_> = streams.into_iter().flatten().collect();
    say(&output::status(&streams, OffsetDateTime::now_utc()));
    match broker.workers().await {
        Ok(workers) => say(&format!("\n{}", output::workers(&workers, &args.tenant))),
        Err(error) => remark(&error.to_string()),
    }
    if missing {
        remark(&format!(
            "not everything is set up; run: segfleet setup --tenant {}",
            args.tenant
        ));
        return Ok(Exit::Broker);
    }
    Ok(Exit::Ok)
}
