//! `segfleet steward`.

use segfleet_common::{args::default_name, broker::ConnectArgs, shutdown};

use super::{CommandError, Exit};
use crate::{
    config::StewardArgs,
    steward::{self, Config},
};

pub(super) async fn run(connect: &ConnectArgs, args: StewardArgs) -> Result<Exit, CommandError> {
    let http = args.listen.open().map_err(CommandError::Usage)?;
    let shutdown = shutdown::on_signal().map_err(CommandError::Signals)?;
    let config = Config {
        name: args.name.unwrap_or_else(|| default_name("steward")),
        look_every: args.look_every,
        http,
    };
    steward::run(connect, config, shutdown).await?;
    Ok(Exit::Ok)
}
