//! The connection: its settings, its life, its end.

use std::{
    future, io,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr, connection::State, jetstream,
};
use clap::Args;
use percent_encoding::percent_decode_str;
use thiserror::Error;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::retry::Backoff;

/// Oldest server with the features and the security fixes that the streams rely on.
const OLDEST_SERVER: (i64, i64, i64) = (2, 12, 6);
/// How often the broker is asked for a sign of life. The third that it owes ends the connection: what a network has
/// cut without a word is noticed within a lease.
const PING_INTERVAL: Duration = Duration::from_secs(7);
/// How long closing may take: it only sends what is buffered.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait after the first connection that failed.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// Longest wait after any.
const LONGEST_RETRY: Duration = Duration::from_secs(15);

/// Why a program is not ready that has no connection.
pub const NO_BROKER: &str = "no connection to the broker";

/// Where the broker is and who connects: the variables and files of the `nats` command.
#[derive(Debug, Clone, Args)]
pub struct ConnectArgs {
    /// Address of the broker, as `nats://host:port` or with `user:password@` or `token@` before the host; several,
    /// separated by commas, for a cluster, where the first that names a user counts
    #[arg(
        long,
        env = "NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        hide_env_values = true,
        global = true,
        value_name = "URL"
    )]
    pub server: String,

    /// File with the user's credentials
    #[arg(long, env = "NATS_CREDS", global = true, value_name = "FILE")]
    pub creds: Option<PathBuf>,

    /// File with the user's NKEY seed
    #[arg(long, env = "NATS_NKEY", global = true, value_name = "FILE")]
    pub nkey: Option<PathBuf>,

    /// File with the certificates that sign the broker's (TLS)
    #[arg(long, env = "NATS_CA", global = true, value_name = "FILE")]
    pub tlsca: Option<PathBuf>,

    /// File with the user's own certificate (TLS)
    #[arg(
        long,
        env = "NATS_CERT",
        requires = "tlskey",
        global = true,
        value_name = "FILE"
    )]
    pub tlscert: Option<PathBuf>,

    /// File with the key of the user's certificate (TLS)
    #[arg(
        long,
        env = "NATS_KEY",
        requires = "tlscert",
        global = true,
        value_name = "FILE"
    )]
    pub tlskey: Option<PathBuf>,

    /// Most messages that wait for one subscriber; what comes beyond them is dropped. No setting.
    #[arg(skip)]
    subscription_capacity: Option<usize>,
}

impl ConnectArgs {
    /// Settings for a broker without security at `server`.
    #[must_use]
    pub fn plain(server: impl Into<String>) -> Self {
        Self {
            server: server.into(),
            creds: None,
            nkey: None,
            tlsca: None,
            tlscert: None,
            tlskey: None,
            subscription_capacity: None,
        }
    }

    /// The same with at most so many messages that wait for one subscriber; what comes beyond them is dropped.
    #[must_use]
    pub fn with_subscription_capacity(self, n_messages: usize) -> Self {
        Self {
            subscription_capacity: Some(n_messages),
            ..self
        }
    }

    /// The address without the password that it may contain, for messages.
    #[must_use]
    pub fn display_server(&self) -> String {
        let hide = |url: &str| match (url.split_once("://"), url.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
            (None, Some((_, host))) => host.to_owned(),
            (_, None) => url.to_owned(),
        };
        self.server
            .split(',')
            .map(hide)
            .collect::<Vec<_>>()
            .join(",")
    }

    /// The user and the password of the first address that has them, or the token in the user's place.
    fn login(&self) -> Option<(String, Option<String>)> {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        // One that cannot be parsed is reported by whoever connects.
        let addresses = self.server.split(',');
        let mut parsed = addresses.filter_map(|address| address.parse::<ServerAddr>().ok());
        parsed.find_map(|address| {
            let user = decode(address.username()?);
            Some((user, address.password().map(decode)))
        })
    }

    async fn options(&self) -> Result<ConnectOptions, ConnectError> {
        let unreadable = |path: &PathBuf| {
            let path = path.clone();
            move |source| ConnectError::File { path, source }
        };
        let mut options = match self.login() {
            Some((user, Some(password))) => ConnectOptions::with_user_and_password(user, password),
            Some((token, None)) => ConnectOptions::with_token(token),
            None => ConnectOptions::new(),
        };
        if let Some(path) = &self.creds {
            options = options
                .credentials_file(path)
                .await
                .map_err(unreadable(path))?;
        }
        if let Some(path) = &self.nkey {
            let seed = std::fs::read_to_string(path).map_err(unreadable(path))?;
            options = options.nkey(seed.trim().to_owned());
        }
        // These are read at each connection; one that is not there would look like a broker that is away.
        for path in [&self.tlsca, &self.tlscert, &self.tlskey]
            .into_iter()
            .flatten()
        {
            std::fs::metadata(path).map_err(unreadable(path))?;
        }
        if let Some(path) = &self.tlsca {
            options = options.add_root_certificates(path.clone());
        }
        if let (Some(certificate), Some(key)) = (&self.tlscert, &self.tlskey) {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        if let Some(n_messages) = self.subscription_capacity {
            options = options.subscription_capacity(n_messages);
        }
        Ok(options)
    }
}

/// A broker that cannot be used.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// A file with secrets cannot be read.
    #[error("{path} cannot be read: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The credentials are refused.
    #[error(
        "the broker at {server} refuses this user: {source}; check --creds, --nkey, or the user and password in the address"
    )]
    Refused {
        /// The address tried.
        server: String,
        /// Why not.
        source: async_nats::ConnectError,
    },
    /// Nobody answers.
    #[error("no broker at {server}: {source}; start one there, or set --server or NATS_URL")]
    Unreachable {
        /// The address tried.
        server: String,
        /// Why not.
        source: async_nats::ConnectError,
    },
    /// The server lacks what the streams need.
    #[error("the broker at {server} is nats-server {version}, 2.12.6 or newer is needed")]
    TooOld {
        /// The address.
        server: String,
        /// What it says it is.
        version: String,
    },
}

/// What is known of the connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// How often it was made; a change means that live messages may have been missed.
    pub connects: u64,
    /// It has been closed for good.
    pub closed: bool,
}

/// A connection to the broker. Clones share it. It comes back by itself when it is lost.
#[derive(Debug, Clone)]
pub struct Broker {
    client: Client,
    jetstream: jetstream::Context,
    link: watch::Receiver<Link>,
}

impl Broker {
    /// Connects under `name`, which the broker shows in its lists.
    ///
    /// # Errors
    /// [`ConnectError`] when a file cannot be read, nobody answers, or the server is too old. It does not try
    /// again: callers that want to wait decide how long.
    pub async fn connect(args: &ConnectArgs, name: &str) -> Result<Self, ConnectError> {
        let (sender, link) = watch::channel(Link::default());
        let observer = Observer {
            link: sender,
            connection: name.to_owned(),
            n_dropped: AtomicU64::new(0),
        };
        let options = args
            .options()
            .await?
            .name(name)
            .ping_interval(PING_INTERVAL)
            .event_callback(move |event| {
                observer.note(&event);
                future::ready(())
            });
        let server = args.display_server();
        let addresses: Vec<&str> = args.server.split(',').collect();
        let connected = options.connect(addresses).await;
        let client = connected.map_err(|source| {
            let server = server.clone();
            match source.kind() {
                ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                    ConnectError::Refused { server, source }
                }
                ConnectErrorKind::ServerParse
                | ConnectErrorKind::Dns
                | ConnectErrorKind::TimedOut
                | ConnectErrorKind::Tls
                | ConnectErrorKind::Io
                | ConnectErrorKind::MaxReconnects => ConnectError::Unreachable { server, source },
            }
        })?;
        let (major, minor, patch) = OLDEST_SERVER;
        if !client.is_server_compatible(major, minor, patch) {
            let version = client.server_info().version;
            return Err(ConnectError::TooOld { server, version });
        }
        let jetstream = jetstream::new(client.clone());
        Ok(Self {
            client,
            jetstream,
            link,
        })
    }

    /// Connects, and keeps trying until somebody answers; `None` when `shutdown` comes first.
    ///
    /// # Errors
    /// [`ConnectError`] for what waiting cannot mend: a file that cannot be read, a server that is too old.
    pub async fn connect_until(
        args: &ConnectArgs,
        name: &str,
        shutdown: &CancellationToken,
    ) -> Result<Option<Self>, ConnectError> {
        let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        loop {
            let connecting = shutdown.run_until_cancelled(Self::connect(args, name));
            let error = match connecting.await {
                None => return Ok(None),
                Some(Ok(broker)) => return Ok(Some(broker)),
                Some(Err(
                    error @ (ConnectError::Unreachable { .. } | ConnectError::Refused { .. }),
                )) => error,
                Some(Err(error @ (ConnectError::File { .. } | ConnectError::TooOld { .. }))) => {
                    return Err(error);
                }
            };
            let delay = backoff.next_delay();
            tracing::warn!("{error}; trying again in {delay:.1?}");
            shutdown.run_until_cancelled(sleep(delay)).await;
        }
    }

    /// The connection itself, for subscriptions and plain requests.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Whether there is a connection now.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// How often the connection was made.
    #[must_use]
    pub fn n_connects(&self) -> u64 {
        self.link.borrow().connects
    }

    /// JetStream over this connection.
    #[must_use]
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// What is known of the connection, as it changes.
    #[must_use]
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    /// Largest message that leaves room for headers, in bytes: the server's `max_payload` less 64 KiB.
    #[must_use]
    pub fn inline_limit_bytes(&self) -> usize {
        self.client
            .max_payload()
            .saturating_sub(crate::limits::MESSAGE_HEADROOM_BYTES)
    }

    /// Sends what is buffered and closes the connection; gives up after a few seconds.
    pub async fn close(mut self) {
        let closing = async {
            if self.client.drain().await.is_ok() {
                // An error means that the sender is gone, and with it the connection.
                drop(self.link.wait_for(|link| link.closed).await);
            }
        };
        if timeout(CLOSE_TIMEOUT, closing).await.is_err() {
            tracing::warn!("the connection to the broker did not close in time");
        }
    }
}

/// Takes in what happens to a connection.
struct Observer {
    link: watch::Sender<Link>,
    /// The connection's name.
    connection: String,
    /// Messages that were dropped because nobody took them in time.
    n_dropped: AtomicU64,
}

impl Observer {
    fn note(&self, event: &Event) {
        let connection = &self.connection;
        match event {
            Event::Connected => {
                self.link.send_modify(|link| link.connects += 1);
                tracing::debug!(connection, "connected to the broker");
            }
            Event::Closed => {
                self.link.send_modify(|link| link.closed = true);
            }
            Event::Disconnected => tracing::warn!(connection, "lost the broker; reconnecting"),
            Event::LameDuckMode => {
                tracing::info!("the broker is about to stop; reconnecting elsewhere")
            }
            Event::Draining => tracing::debug!("closing the connection to the broker"),
            Event::SlowConsumer(_) => {
                let n_dropped = self.n_dropped.fetch_add(1, Ordering::Relaxed) + 1;
                // Each of a flood would be a flood of lines.
                if n_dropped.is_power_of_two() {
                    tracing::warn!(
                        connection,
                        n_dropped,
                        "messages come faster than they are taken; dropping some"
                    );
                }
            }
            Event::ServerError(_) | Event::ClientError(_) => {
                tracing::warn!(connection, %event, "the broker connection reports a problem");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        let cases = [
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
            (
                "nats://me:secret@host:1,tls://you:p@ss@host:2",
                "nats://host:1,tls://host:2",
            ),
            ("me:secret@host", "host"),
        ];
        for (server, shown) in cases {
            assert_eq!(ConnectArgs::plain(server).display_server(), shown);
        }
    }

    #[test]
    fn the_first_address_with_a_user_says_who_connects() {
        let cases = [
            ("nats://host:1", None),
            ("host", None),
            ("nats://me:secret@host:1", Some(("me", Some("secret")))),
            (
                "nats://a,tls://you:p%40s%2Fs@b",
                Some(("you", Some("p@s/s"))),
            ),
            ("you:p@ss@host:2", Some(("you", Some("p@ss")))),
            ("nats://token@host", Some(("token", None))),
        ];
        for (server, expected) in cases {
            let login = ConnectArgs::plain(server).login();
            let login = login.as_ref();
            let login = login.map(|(user, password)| (user.as_str(), password.as_deref()));
            assert_eq!(login, expected, "{server}");
        }
    }
}
