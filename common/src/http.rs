//! The port through which a program is looked at: `/metrics`, `/livez` and `/readyz`.
//!
//! It has few connections, each for one request and a short time: whoever asks too often waits, and no job does. Knows
//! neither what is measured nor what ready means: that is the [`Probe`]'s part.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener as Listener},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE,
    server::conn::http1, service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::metrics;

/// Connections that are answered at once. Those beyond them wait.
const CONNECTIONS: usize = 16;
/// How long one connection may last, from its first byte to the last.
const CONNECTION_TIME: Duration = Duration::from_secs(10);
/// How long the last answers may take when the program ends.
const LAST_ANSWERS_TIME: Duration = Duration::from_secs(1);
/// Time until the next try when the system does not let a connection in: it has too many.
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

const PLAIN: &str = "text/plain; charset=utf-8";

/// Where a program may be looked at.
#[derive(Debug, Clone, Copy, Args)]
pub struct ListenArgs {
    /// Address and port to serve /metrics, /livez and /readyz on, such as 127.0.0.1:9464; without it, none
    #[arg(long, env = "SEGFLEET_HTTP_LISTEN", value_name = "ADDR")]
    pub http_listen: Option<SocketAddr>,
}

impl ListenArgs {
    /// Takes the port, if one is wanted.
    ///
    /// # Errors
    /// Which port it is, and why it is not to be had.
    pub fn open(self) -> Result<Option<Port>, String> {
        let opened = self.http_listen.map(|address| {
            Port::open(address).map_err(|error| format!("--http-listen {address}: {error}"))
        });
        opened.transpose()
    }
}

/// What is looked at. Asked on an asynchronous thread, so it must answer at once.
pub trait Probe: Send + Sync + 'static {
    /// All metrics, as OpenMetrics text.
    fn metrics(&self) -> String;

    /// Why the program cannot do its work now; `None` when it can.
    fn unready(&self) -> Option<String>;
}

/// A port that is taken, whether or not it is served yet.
#[derive(Debug, Clone)]
pub struct Port {
    listener: Arc<Listener>,
}

impl Port {
    /// Takes the port at `address`.
    ///
    /// # Errors
    /// When another program has it, or this one may not.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let listener = Listener::bind(address)?;
        listener.set_nonblocking(true)?;
        let listener = Arc::new(listener);
        Ok(Self { listener })
    }

    /// Where it is, for whoever asked for any.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers for `probe` until `stop`, and then those who have asked before.
    ///
    /// # Errors
    /// When the system does not let it listen.
    pub async fn serve(self, probe: Arc<dyn Probe>, stop: CancellationToken) -> io::Result<()> {
        let listener = TcpListener::from_std(self.listener.try_clone()?)?;
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let answers = TaskTracker::new();
        while let Some(accepted) = stop.run_until_cancelled(accept(&listener, &places)).await {
            match accepted {
                Ok((stream, place)) => {
                    let answering = timeout(CONNECTION_TIME, answer(stream, probe.clone()));
                    answers.spawn(async move {
                        // Whoever is too slow is gone with its connection.
                        drop(answering.await);
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection for metrics or probes is not let in");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
        answers.close();
        drop(timeout(LAST_ANSWERS_TIME, answers.wait()).await);
        Ok(())
    }
}

/// A port that is served until [`Shown::end`], or until this leaves scope.
#[derive(Debug)]
pub struct Shown {
    serving: TaskTracker,
    stop: DropGuard,
}

impl Shown {
    /// Serves the port, if there is one.
    #[must_use]
    pub fn start(port: Option<Port>, probe: Arc<dyn Probe>) -> Self {
        let (serving, stop) = (TaskTracker::new(), CancellationToken::new());
        if let Some(port) = port {
            serving.spawn(serve(port, probe, stop.clone()));
        }
        Self {
            serving,
            stop: stop.drop_guard(),
        }
    }

    /// Answers those who have asked, and ends.
    pub async fn end(self) {
        drop(self.stop);
        self.serving.close();
        self.serving.wait().await;
    }
}

async fn serve(port: Port, probe: Arc<dyn Probe>, stop: CancellationToken) {
    if let Ok(address) = port.address() {
        tracing::info!("metrics and probes are on http://{address}");
    }
    if let Err(error) = port.serve(probe, stop).await {
        tracing::error!(%error, "metrics and probes are not served");
    }
}

/// Waits for a place, and then for somebody to take it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await;
    let (stream, _peer) = listener.accept().await?;
    Ok((stream, place.expect("the places are never closed")))
}

async fn answer(stream: TcpStream, probe: Arc<dyn Probe>) {
    let service = service_fn(|request| {
        let response = respond(&request, &*probe);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection for metrics or probes broke");
    }
}

fn respond(request: &Request<Incoming>, probe: &dyn Probe) -> Response<String> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD\n".to_owned(),
        );
    }
    match request.uri().path() {
        "/metrics" => with_type(StatusCode::OK, metrics::CONTENT_TYPE, probe.metrics()),
        "/livez" => text(StatusCode::OK, "alive\n".to_owned()),
        "/readyz" => match probe.unready() {
            None => text(StatusCode::OK, "ready\n".to_owned()),
            Some(why) => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready: {why}\n"),
            ),
        },
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /metrics, /livez and /readyz\n".to_owned(),
        ),
    }
}

fn text(status: StatusCode, body: String) -> Response<String> {
    with_type(status, PLAIN, body)
}

fn with_type(status: StatusCode, content_type: &'static str, body: String) -> Response<String> {
    let response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, content_type);
    response.body(body).expect("the header is a constant")
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    struct Busy;

    impl Probe for Busy {
        fn metrics(&self) -> String {
            "# EOF\n".to_owned()
        }

        fn unready(&self) -> Option<String> {
            Some("busy".to_owned())
        }
    }

    /// The whole answer to a request without a body.
    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request = format!("{request} HTTP/1.1\r\nHost: me\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("it reads");
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer).await;
        read.expect("it answers and closes");
        answer.to_lowercase()
    }

    #[tokio::test]
    async fn three_paths_are_answered_beside_those_who_say_nothing() {
        let port = Port::open(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = port.address().expect("it has one");
        assert!(Port::open(address).is_err(), "it is taken");
        let stop = CancellationToken::new();
        let serving = TaskTracker::new();
        let served = serving.spawn(port.serve(Arc::new(Busy), stop.clone()));
        let mut silent = Vec::new();
        for _ in 1..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.expect("it listens"));
        }
        let cases = [
            ("GET /livez", "200 ok", "alive\n"),
            (
                "GET /readyz",
                "503 service unavailable",
                "not ready: busy\n",
            ),
            ("GET /metrics", "200 ok", "# eof\n"),
            ("HEAD /metrics", "200 ok", "\r\n\r\n"),
            (
                "GET /",
                "404 not found",
                "there are /metrics, /livez and /readyz\n",
            ),
            (
                "POST /livez",
                "405 method not allowed",
                "only get and head\n",
            ),
        ];
        for (request, status, body) in cases {
            let answer = ask(address, request).await;
            assert!(
                answer.starts_with(&format!("http/1.1 {status}\r\n")),
                "{answer}"
            );
            assert!(answer.ends_with(body), "{answer}");
        }
        let metrics = ask(address, "GET /metrics").await;
        let expected = format!("content-type: {}\r\n", metrics::CONTENT_TYPE);
        assert!(metrics.contains(&expected), "{metrics}");
        stop.cancel();
        let ended = timeout(2 * LAST_ANSWERS_TIME, served).await;
        ended
            .expect("the silent are not waited for")
            .expect("no panic")
            .expect("it listened");
        assert!(TcpStream::connect(address).await.is_err());
    }
}
