//! `segfleet steward`.

use segfleet_common::{args::default_name, broker::ConnectArgs, shutdown, trace::Tracer};

use super::{CommandError, Exit};
use crate::{
    config::StewardArgs,
    steward::{self, Config},
};

/// What a steward is called in traces, where nobody says otherwise.
const SERVICE: &str = "segfleet-steward";

pub(super) async fn run(connect: &ConnectArgs, args: StewardArgs) -> Result<Exit, CommandError> {
    let http = args.listen.open().map_err(CommandError::Usage)?;
    let shutdown = shutdown::on_signal().map_err(CommandError::Signals)?;
    let name = args.name.unwrap_or_else(|| default_name("steward"));
    let tracer = Tracer::from_args(&args.traces, SERVICE, &name)?;
    let config = Config {
        name,
        look_every: args.look_every,
        tracer: tracer.clone(),
        http,
    };
    let ended = steward::run(connect, config, shutdown).await;
    tracer.end().await;
    ended?;
    Ok(Exit::Ok)
}
