//! The two services of a steward, as the broker's tools know services: `nats micro ls` shows them.
//!
//! Owns who listens and how an answer or a refusal travels. All stewards form one queue group: each request is
//! answered by one of them.

use std::{sync::Arc, time::Duration};

use async_nats::service::{Request, Service, ServiceExt, endpoint::Endpoint, error};
use futures_util::{FutureExt as _, StreamExt};
use segfleet_common::{
    broker::Broker,
    retry::Backoff,
    subject::{CANCELS_ALL, INFOS_ALL},
};
use tokio::{join, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{Steward, cancel::cancel, health::Bound, info::info, metrics, roster::Roster};

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

/// Answers requests until `shutdown`, over a connection for them alone.
///
/// A request whose headers cannot be parsed breaks the connection that it comes on; the other parts of the steward
/// shall not suffer from what any client may send.
pub(super) async fn serve(
    steward: Arc<Steward>,
    broker: Broker,
    roster: Arc<Roster>,
    shutdown: CancellationToken,
) {
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(15));
    while let Err(error) = listen(&steward, &broker, &roster, &shutdown).await {
        let delay = backoff.next_delay();
        tracing::warn!("cannot listen for requests: {error}; trying again in {delay:.1?}");
        if shutdown.run_until_cancelled(sleep(delay)).await.is_none() {
            break;
        }
    }
    broker.close().await;
}

/// Listens and answers until `shutdown`.
async fn listen(
    steward: &Arc<Steward>,
    broker: &Broker,
    roster: &Arc<Roster>,
    shutdown: &CancellationToken,
) -> Result<(), async_nats::Error> {
    let Listening {
        service,
        cancels,
        infos,
    } = Listening::start(broker).await?;
    let _bound = Bound::mark(&steward.bound.services);
    tracing::info!("listening for {CANCELS_ALL} and {INFOS_ALL}");
    // An endpoint that ends by itself ends the other, and both begin anew.
    let over = shutdown.child_token();
    let cancels = cancels.for_each_concurrent(CONCURRENT_REQUESTS, |request| {
        let steward = steward.clone();
        async move {
            let answer = cancel(&steward, &request.message.subject).await;
            steward.metrics.asked(metrics::Service::Cancel, &answer);
            respond(&request, answer).await;
        }
    });
    let infos = infos.for_each_concurrent(CONCURRENT_REQUESTS, |request| {
        let (steward, roster) = (steward.clone(), roster.clone());
        async move {
            let answer = info(&steward, &roster, &request.message.subject).await;
            steward.metrics.asked(metrics::Service::Info, &answer);
            respond(&request, answer).await;
        }
    });
    // It ends both endpoints, once what has come is answered.
    let stop = async {
        over.cancelled().await;
        if let Err(error) = service.stop().await {
            tracing::debug!(%error, "the service ends with the connection");
        }
    };
    let end = |()| over.cancel();
    join!(cancels.map(end), infos.map(end), stop);
    if shutdown.is_cancelled() {
        Ok(())
    } else {
        Err("nothing comes any more".into())
    }
}

impl Listening {
    async fn start(broker: &Broker) -> Result<Self, async_nats::Error> {
        let service = broker
            .client()
            .service_builder()
            .description("cancels jobs, and says what a tenant's models have to do")
            .start(NAME, env!("CARGO_PKG_VERSION"))
            .await?;
        let cancels = service.endpoint_builder().name("cancel").add(CANCELS_ALL);
        let cancels = cancels.await?;
        let infos = service.endpoint_builder().name("info").add(INFOS_ALL);
        let infos = infos.await?;
        Ok(Self {
            service,
            cancels,
            infos,
        })
    }
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
