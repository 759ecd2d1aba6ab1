//! [`Failing`]: what does not work now, so that the log says it once and not at each try.

use std::collections::HashSet;

use super::ending::EndError;

/// What does not work now, and for which causes.
#[derive(Debug, Default)]
pub(super) struct Failing(HashSet<(String, &'static str)>);

impl Failing {
    /// Takes in a failure of `what`; whether it is the first for this cause since it worked last.
    pub(super) fn begins(&mut self, what: &str, error: &EndError) -> bool {
        self.0.insert((what.to_owned(), error.cause()))
    }

    /// Takes in that `what` works; whether it had failed.
    pub(super) fn ends(&mut self, what: &str) -> bool {
        let n_before = self.0.len();
        self.0.retain(|(failing, _)| failing != what);
        self.0.len() < n_before
    }
}

#[cfg(test)]
mod tests {
    use segfleet_common::broker::PublishError;

    use super::*;

    #[test]
    fn each_cause_begins_once_until_it_works_again() {
        let full = |text: &str| EndError::Publish(PublishError::Full(text.to_owned()));
        let mut failing = Failing::default();
        assert!(!failing.ends("JOBS"));
        assert!(failing.begins("JOBS", &full("maximum bytes exceeded")));
        assert!(!failing.begins("JOBS", &full("maximum messages exceeded")));
        assert!(failing.begins("JOBS", &EndError::AnswerNotFound));
        assert!(failing.begins("JOBS-lab", &full("maximum bytes exceeded")));
        assert!(failing.ends("JOBS"));
        assert!(!failing.ends("JOBS"));
        assert!(failing.begins("JOBS", &EndError::AnswerNotFound));
        assert!(!failing.begins("JOBS-lab", &full("maximum bytes exceeded")));
    }
}
