//! [`Failpoint`]: a step at which a test kills the worker. There is none in a release build.

/// A step in the life of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(debug_assertions, derive(clap::ValueEnum))]
pub enum Step {
    /// The message has arrived.
    Taken,
    /// The work is done, nothing of it is stored.
    Computed,
    /// The result is stored.
    Stored,
    /// The dead letter is stored.
    Buried,
}

/// Where the worker kills itself, if anywhere.
#[derive(Debug, Clone, Copy, Default)]
pub struct Failpoint {
    /// The step.
    #[cfg(debug_assertions)]
    pub at: Option<Step>,
}

impl Failpoint {
    /// Ends the process, without a word to anybody, if this is the step.
    #[cfg_attr(
        not(debug_assertions),
        expect(clippy::unused_self, reason = "it is for test builds")
    )]
    pub(crate) fn reach(self, step: Step) {
        #[cfg(debug_assertions)]
        if self.at == Some(step) {
            std::process::abort();
        }
        #[cfg(not(debug_assertions))]
        let _ = step;
    }
}
