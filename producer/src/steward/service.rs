//! The two services of a steward, as the broker's tools know services: `nats micro ls` shows them.
//!
//! Owns who listens and how an answer or a refusal travels. All stewards form one queue group: each request is
//! answered by one of them.

use std::{sync::Arc, time::Duration};

use async_nats::service::{Request, Service, ServiceExt, endpoint::Endpoint, error};
use futures_util::StreamExt;
use segfleet_common::{
    retry::Backoff,
    subject::{CANCELS_ALL, INFOS_ALL},
};
use tokio::{join, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{Steward, cancel::cancel, info::info};

/// Name of the service.
const NAME: &str = "segfleet-steward";
/// Most requests of one kind that are answered at once.
const CONCURRENT_REQUESTS: usize = 16;

/// A request that is not done.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The client's mistake: it names what cannot be.
    Bad(String),
    /// The client's mistake: it names what is not there.
    NotFound(String),
    /// The broker does not do its part now; trying again is safe.
    TryAgain(String),
}

impl From<Refusal> for error::Error {
    fn from(refusal: Refusal) -> Self {
        let (code, status) = match refusal {
            Refusal::Bad(status) => (400, status),
            Refusal::NotFound(status) => (404, status),
            Refusal::TryAgain(status) => (503, format!("{status}; try again")),
        };
        // A header is one line.
        Self {
            code,
            status: status.replace(['\r', '\n'], " "),
        }
    }
}

/// The service with its endpoints.
struct Listening {
    service: Service,
    cancels: Endpoint,
    infos: Endpoint,
}

/// Answers requests until `shutdown`.
pub(super) async fn serve(steward: Arc<Steward>, shutdown: CancellationToken) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
    let listening = loop {
        match listen(&steward).await {
            Ok(listening) => break listening,
            Err(error) => {
                let delay = backoff.next_delay();
                tracing::warn!("cannot listen for requests: {error}; trying again in {delay:.1?}");
                if shutdown.run_until_cancelled(sleep(delay)).await.is_none() {
                    return;
                }
            }
        }
    };
    tracing::info!("listening for {CANCELS_ALL} and {INFOS_ALL}");
    let Listening {
        service,
        cancels,
        infos,
    } = listening;
    let cancels = cancels.for_each_concurrent(CONCURRENT_REQUESTS, |request| {
        let steward = steward.clone();
        async move { respond(&request, cancel(&steward, &request.message.subject).await).await }
    });
    let infos = infos.for_each_concurrent(CONCURRENT_REQUESTS, |request| {
        let steward = steward.clone();
        async move { respond(&request, info(&steward, &request.message.subject).await).await }
    });
    // It ends both endpoints, once what has come is answered.
    let stop = async {
        shutdown.cancelled().await;
        if let Err(error) = service.stop().await {
            tracing::debug!(%error, "the service ends with the connection");
        }
    };
    join!(cancels, infos, stop);
}

async fn listen(steward: &Steward) -> Result<Listening, async_nats::Error> {
    let service = steward
        .broker
        .client()
        .service_builder()
        .description("cancels jobs, and says what a tenant's models have to do")
        .start(NAME, env!("CARGO_PKG_VERSION"))
        .await?;
    let cancels = service.endpoint_builder().name("cancel").add(CANCELS_ALL);
    let cancels = cancels.await?;
    let infos = service
        .endpoint_builder()
        .name("info")
        .add(INFOS_ALL)
        .await?;
    Ok(Listening {
        service,
        cancels,
        infos,
    })
}

async fn respond(request: &Request, answer: Result<Vec<u8>, Refusal>) {
    // Who does not say where to answer does not want to know.
    if request.message.reply.is_none() {
        return;
    }
    let answer = answer.map(Into::into).map_err(Into::into);
    if let Err(error) = request.respond(answer).await {
        tracing::warn!(%error, subject = %request.message.subject, "an answer was not sent");
    }
}
