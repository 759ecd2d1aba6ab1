//! [`ResultWriter`]: what every result of one delivery has in common, and the bytes of each.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;
use segfleet_common::{
    result::{ErrorCode, JobError, JobResult, ModelInfo, Object, Outcome, Stage, Timings},
    subject::{JobId, Tenant},
    trace::span::Period,
    wire::{self, ResultFormat},
};

use crate::process::Draft;

/// Writes the result of one delivery, in the form that its job asked for.
#[derive(Debug, Clone)]
pub(crate) struct ResultWriter {
    pub(crate) id: JobId,
    pub(crate) tenant: Tenant,
    pub(crate) model: ModelInfo,
    pub(crate) attempt: u32,
    pub(crate) worker: Arc<str>,
    pub(crate) trace_id: Option<String>,
    pub(crate) format: ResultFormat,
    /// Largest result that fits into a message.
    pub(crate) limit_bytes: usize,
}

/// A result ready to be stored.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) account: Arc<Account>,
    pub(crate) format: ResultFormat,
    pub(crate) payload: Bytes,
}

/// What a result says that is counted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// Its status.
    pub(crate) outcome: &'static str,
    /// Where that is an error.
    pub(crate) error: Option<JobError>,
    /// Those in the result, and that of its encoding.
    pub(crate) timings: Timings,
    /// When it was encoded.
    pub(crate) encoded: Period,
    /// In an image that was segmented.
    pub(crate) found: Option<Found>,
}

/// How much was found in an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) n_objects: usize,
    /// Of all objects together.
    pub(crate) n_vertices: usize,
}

impl Account {
    fn of(result: &JobResult, encoded: Period) -> Arc<Self> {
        let (error, found) = match &result.outcome {
            Outcome::Ok(objects) => {
                let found = Found {
                    n_objects: objects.len(),
                    n_vertices: objects.iter().map(Object::n_vertices).sum(),
                };
                (None, Some(found))
            }
            Outcome::Error(error) => (Some(error.clone()), None),
            Outcome::Expired | Outcome::Cancelled => (None, None),
        };
        let mut timings = result.timings.clone();
        timings.insert(Stage::Encode, encoded.time());
        Arc::new(Self {
            outcome: result.outcome.status(),
            error,
            timings,
            encoded,
            found,
        })
    }

    /// The code of an error.
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        self.error.as_ref().map(|error| error.code)
    }

    /// How the job ended: a status, or the code of an error.
    #[cfg(test)]
    pub(crate) fn ending(&self) -> &'static str {
        self.code().map_or(self.outcome, ErrorCode::as_str)
    }
}

impl ResultWriter {
    /// The result of this delivery with `outcome`.
    pub(crate) fn result(&self, draft: Draft, outcome: Outcome) -> JobResult {
        let Draft {
            image,
            timings,
            metadata,
        } = draft;
        let segmented = matches!(outcome, Outcome::Ok(_));
        JobResult {
            id: self.id.clone(),
            tenant: self.tenant.clone(),
            outcome,
            image,
            model: segmented.then(|| self.model.clone()),
            timings,
            attempt: Some(self.attempt),
            worker: Some(self.worker.to_string()),
            trace_id: self.trace_id.clone(),
            metadata,
        }
    }

    /// Writes the result; one too large for a message becomes the error that says so.
    pub(crate) fn write(&self, draft: Draft, outcome: Outcome) -> Answer {
        let result = self.result(draft, outcome);
        let (payload, encoded) = self.encode(&result);
        if payload.len() <= self.limit_bytes {
            return Answer {
                account: Account::of(&result, encoded),
                format: self.format,
                payload,
            };
        }
        let error = self.too_large(&result, payload.len());
        // Neither timings nor metadata can be that large, so this one fits.
        let small = JobResult {
            outcome: Outcome::Error(error),
            model: None,
            ..result
        };
        let (payload, _) = self.encode(&small);
        Answer {
            account: Account::of(&small, encoded),
            format: self.format,
            payload,
        }
    }

    fn encode(&self, result: &JobResult) -> (Bytes, Period) {
        let start = SystemTime::now();
        let payload = wire::encode_result(result, self.format).into();
        (payload, Period::since(start))
    }

    fn too_large(&self, result: &JobResult, n_bytes: usize) -> JobError {
        let n_objects = match &result.outcome {
            Outcome::Ok(objects) => objects.len(),
            Outcome::Error(_) | Outcome::Expired | Outcome::Cancelled => 0,
        };
        let limit_bytes = self.limit_bytes;
        let message = format!(
            "the result has {n_bytes} bytes ({n_objects} objects), the limit is {limit_bytes}; raise min_area_px or simplify_px"
        );
        JobError::new(ErrorCode::ResultTooLarge, message)
    }
}

#[cfg(test)]
mod tests {
    use segfleet_common::{job::Metadata, result::Object};

    use super::*;
    use crate::{mask::Mask, outline};

    fn objects() -> Vec<Object> {
        let chessboard = Mask::from_fn(40, 40, |x, y| (x + y) % 2 == 0);
        let connectivity = segfleet_common::job::Connectivity::Four;
        let options = outline::OutlineOptions {
            connectivity,
            min_area_px: 1,
            max_objects: 1000,
            max_vertices: 10_000,
            max_corners: 50_000_000,
        };
        outline::outline_mask(&chessboard, &options).expect("800 objects")
    }

    #[test]
    fn a_result_too_large_says_so_and_keeps_the_rest() {
        let writer = ResultWriter {
            id: "j".parse().expect("a token"),
            tenant: Tenant::default(),
            model: ModelInfo {
                name: "m".to_owned(),
                version: "1".to_owned(),
                digest: None,
            },
            attempt: 1,
            worker: "w".into(),
            trace_id: None,
            format: ResultFormat::Json,
            limit_bytes: 10_000,
        };
        let draft = Draft {
            metadata: Some(Metadata::text("file", "a.png")),
            ..Draft::default()
        };
        let answer = writer.write(draft, Outcome::Ok(objects()));
        assert_eq!(answer.account.ending(), "result_too_large");
        let read = wire::read_result(Some(wire::JSON), &answer.payload).expect("a result");
        let Outcome::Error(error) = read.outcome else {
            panic!("{read:?}")
        };
        assert!(
            error.message.contains("(800 objects), the limit is 10000"),
            "{error}"
        );
        assert_eq!(read.metadata, Some(Metadata::text("file", "a.png")));
    }
}
