//! [`Gate`]: closed while a finished result waits to be stored, so that nothing new is taken meanwhile.

use tokio::sync::watch;

/// Counts who holds it closed; open at zero.
#[derive(Debug)]
pub(crate) struct Gate {
    n_holders: watch::Sender<usize>,
}

/// Holds the gate closed until it leaves scope.
#[derive(Debug)]
pub(crate) struct GateHold<'a> {
    gate: &'a Gate,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            n_holders: watch::Sender::new(0),
        }
    }

    pub(crate) fn hold(&self) -> GateHold<'_> {
        self.n_holders.send_modify(|n_holders| *n_holders += 1);
        GateHold { gate: self }
    }

    /// Waits until somebody holds it.
    pub(crate) async fn closed(&self) {
        let mut n_holders = self.n_holders.subscribe();
        let closed = n_holders.wait_for(|n_holders| *n_holders > 0).await;
        closed.expect("the sender lives in the gate, and so as long as this borrow");
    }

    /// Waits until nobody holds it.
    pub(crate) async fn passed(&self) {
        let mut n_holders = self.n_holders.subscribe();
        let open = n_holders.wait_for(|n_holders| *n_holders == 0).await;
        open.expect("the sender lives in the gate, and so as long as this borrow");
    }
}

impl Drop for GateHold<'_> {
    fn drop(&mut self) {
        self.gate.n_holders.send_modify(|n_holders| *n_holders -= 1);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn opens_when_the_last_holder_leaves() {
        let gate = Gate::new();
        gate.passed().await;
        let (first, second) = (gate.hold(), gate.hold());
        gate.closed().await;
        drop(first);
        assert!(
            timeout(Duration::from_millis(1), gate.passed())
                .await
                .is_err()
        );
        drop(second);
        gate.passed().await;
    }
}
