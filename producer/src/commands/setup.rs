//! `segfleet setup`.

use segfleet_common::broker::{Broker, Setup};

use super::{CommandError, Exit, say};
use crate::config::SetupArgs;

pub(super) async fn run(broker: &Broker, args: &SetupArgs) -> Result<Exit, CommandError> {
    let setup = Setup {
        broker,
        tenant: &args.tenant.tenant,
        models: &args.models,
        settings: &args.to_settings(),
    };
    for change in setup.run().await? {
        say(&change.to_string());
    }
    Ok(Exit::Ok)
}
