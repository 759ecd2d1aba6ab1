//! From signals to a [`CancellationToken`]: the only place that knows signals.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code after a second signal, as a shell reports a program stopped by SIGINT.
const INTERRUPTED: i32 = 130;

/// Returns a token that is cancelled by the first SIGTERM or SIGINT; a second one ends the process at once.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn on_signal() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "it lives as long as the process and holds nothing"
    )]
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        tracing::info!("shutting down; a second signal exits at once");
        cancelled.cancel();
        either(&mut terminate, &mut interrupt).await;
        exit_at_once();
    });
    Ok(token)
}

async fn either(first: &mut Signal, second: &mut Signal) {
    tokio::select! {
        _ = first.recv() => {}
        _ = second.recv() => {}
    }
}

#[expect(
    clippy::exit,
    reason = "a person who asks twice does not want to wait for a drain"
)]
fn exit_at_once() -> ! {
    std::process::exit(INTERRUPTED)
}
