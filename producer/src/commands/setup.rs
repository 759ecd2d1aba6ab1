//! `segfleet setup`.

use segfleet_common::{
    broker::{Broker, Setup},
    subject::{BUILT_IN_MODELS, ModelName},
};

use super::{CommandError, Exit, say};
use crate::config::SetupArgs;

pub(super) async fn run(broker: &Broker, args: &SetupArgs) -> Result<Exit, CommandError> {
    let tenant = &args.tenant.tenant;
    let mut models = args.models.clone();
    if models.is_empty() && broker.models(tenant).await?.is_none() {
        models = BUILT_IN_MODELS
            .iter()
            .filter_map(|name| name.parse::<ModelName>().ok())
            .collect();
    }
    let setup = Setup {
        broker,
        tenant,
        models: &models,
        settings: &args.to_settings(),
    };
    for change in setup.run().await? {
        say(&change.to_string());
    }
    Ok(Exit::Ok)
}
