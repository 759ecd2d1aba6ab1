//! How a delivery is settled: one pure function of how it ended, its attempt and the limits.
//!
//! This is the settlement table of the contract and nothing else. Carrying it out is [`crate::settler`]'s part.

use std::time::Duration;

use segfleet_common::result::JobError;

use crate::writer::Answer;

/// Longest wait before the second attempt.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait before any attempt.
pub(crate) const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// How the work on a delivery ended.
#[derive(Debug)]
pub(crate) enum Ending {
    /// A result is ready: a success, the client's fault, expired or cancelled.
    Finished(Answer),
    /// No result; it may go better next time.
    Failed(JobError),
    /// No result, and there is no use in trying again: the job did that to a process of its own.
    GivenUp(JobError),
    /// All attempts were spent before this delivery.
    Spent,
    /// The job has a stored result; with the error if it is one that a dead letter belongs to.
    Answered(Option<JobError>),
    /// The worker is draining and its grace is over.
    Drained,
}

/// What to do with the delivery.
#[derive(Debug)]
pub(crate) enum Settlement {
    /// Store the result, then double-ack.
    Answer(Answer),
    /// Store the error as result, write the dead letter, then term.
    GiveUp(JobError),
    /// Double-ack: the result is stored.
    Close,
    /// Write the dead letter, then term: the error is stored as result.
    Bury(JobError),
    /// Nak because of the error; the broker hands it out again after at most this time.
    Retry(Duration, JobError),
    /// Nak, to be handed out at once.
    Return,
}

/// What settling depends on beside the ending.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SettleLimits {
    /// How often a job is tried.
    pub(crate) attempts: u32,
    /// Longest wait after the first failed attempt; doubles with each.
    pub(crate) first_retry: Duration,
    /// Longest wait after any.
    pub(crate) longest_retry: Duration,
}

impl SettleLimits {
    /// The usual waits.
    pub(crate) fn of_attempts(attempts: u32) -> Self {
        Self {
            attempts,
            first_retry: FIRST_RETRY,
            longest_retry: LONGEST_RETRY,
        }
    }
}

/// Decides.
pub(crate) fn settle(ending: Ending, attempt: u32, limits: &SettleLimits) -> Settlement {
    match ending {
        Ending::Finished(answer) => Settlement::Answer(answer),
        Ending::Failed(error) if attempt >= limits.attempts => Settlement::GiveUp(error),
        Ending::Failed(error) => Settlement::Retry(retry_delay(attempt, limits), error),
        Ending::GivenUp(error) => Settlement::GiveUp(error),
        Ending::Spent => Settlement::GiveUp(JobError::attempts_exhausted(limits.attempts)),
        Ending::Answered(None) => Settlement::Close,
        Ending::Answered(Some(error)) => Settlement::Bury(error),
        Ending::Drained => Settlement::Return,
    }
}

fn retry_delay(attempt: u32, limits: &SettleLimits) -> Duration {
    let doublings = attempt.saturating_sub(1).min(31);
    limits
        .first_retry
        .saturating_mul(1 << doublings)
        .min(limits.longest_retry)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::SystemTime};

    use segfleet_common::{
        result::{ErrorCode, Timings},
        trace::span::Period,
        wire::ResultFormat,
    };

    use super::*;
    use crate::writer::Account;

    const LIMITS: SettleLimits = SettleLimits {
        attempts: 3,
        first_retry: Duration::from_secs(1),
        longest_retry: Duration::from_secs(60),
    };

    fn check(ending: Ending, attempt: u32, expected: &str) {
        let settlement = match settle(ending, attempt, &LIMITS) {
            Settlement::Answer(answer) => format!("answer {}", answer.account.ending()),
            Settlement::GiveUp(error) => format!("give up {}", error.code),
            Settlement::Close => "close".to_owned(),
            Settlement::Bury(error) => format!("bury {}", error.code),
            Settlement::Retry(delay, error) => format!("retry {delay:?} {}", error.code),
            Settlement::Return => "return".to_owned(),
        };
        assert_eq!(settlement, expected);
    }

    #[test]
    fn the_table() {
        let finished = |outcome, code: Option<ErrorCode>| {
            let account = Account {
                outcome,
                error: code.map(|code| JobError::new(code, "why")),
                timings: Timings::new(),
                encoded: Period::since(SystemTime::now()),
                found: None,
            };
            Ending::Finished(Answer {
                account: Arc::new(account),
                format: ResultFormat::Msgpack,
                payload: bytes::Bytes::new(),
            })
        };
        let crashed = || JobError::new(ErrorCode::Crashed, "why");
        for attempt in [1, 3, 4] {
            check(finished("ok", None), attempt, "answer ok");
            check(
                finished("error", Some(ErrorCode::ImageUnreadable)),
                attempt,
                "answer image_unreadable",
            );
            check(finished("expired", None), attempt, "answer expired");
            check(Ending::GivenUp(crashed()), attempt, "give up crashed");
            check(Ending::Spent, attempt, "give up attempts_exhausted");
            check(Ending::Answered(None), attempt, "close");
            check(Ending::Answered(Some(crashed())), attempt, "bury crashed");
            check(Ending::Drained, attempt, "return");
        }
        check(Ending::Failed(crashed()), 1, "retry 1s crashed");
        check(Ending::Failed(crashed()), 2, "retry 2s crashed");
        check(Ending::Failed(crashed()), 3, "give up crashed");
        check(Ending::Failed(crashed()), 4, "give up crashed");
    }

    #[test]
    fn waiting_grows_to_its_limit_and_never_overflows() {
        let limits = SettleLimits {
            attempts: u32::MAX,
            ..LIMITS
        };
        let delays = [1, 2, 3, 7, 8, 1000].map(|attempt| retry_delay(attempt, &limits).as_secs());
        assert_eq!(delays, [1, 2, 4, 60, 60, 60]);
    }
}
