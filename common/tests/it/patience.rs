//! How long tests wait.

use std::time::Duration;

use tokio::time::timeout;

/// How long anything may take; only a hang takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for what must happen, and fails the test when it hangs.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen within {PATIENCE:?}"))
}
