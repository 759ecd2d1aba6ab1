//! A network that cuts connections, or lets them stand without a word; a cluster whose servers go away.

use std::time::Duration;

use segfleet_common::{
    broker::{ConnectArgs, Settings},
    result::JobResult,
    subject::Tenant,
    wire,
};
use segfleet_worker::config::Config;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    select,
    sync::watch,
};

use crate::{
    fleet::{Fleet, JobMessage, ending, soon, spawn},
    models::{Held, Unreliable, png},
    server::Server,
};

fn job() -> JobMessage {
    JobMessage::image(&png(2, 2))
}

/// A way to the broker that can be cut.
struct Proxy {
    url: String,
    /// All connections end, and none is made.
    is_cut: watch::Sender<bool>,
    /// Connections made before this count stand still, and neither end hears of it.
    frozen_before: watch::Sender<u64>,
}

impl Proxy {
    async fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("nats://{}", listener.local_addr().expect("bound"));
        let target = server.url().replace("nats://", "");
        let (is_cut, cuts) = watch::channel(false);
        let (frozen_before, freezes) = watch::channel(0);
        spawn(async move {
            let mut n_accepted = 0;
            while let Ok((client, _)) = listener.accept().await {
                let freezes = freezes.clone();
                let frozen = async move { until(freezes, |before| n_accepted < *before).await };
                spawn(carry(client, target.clone(), cuts.clone(), frozen));
                n_accepted += 1;
            }
        });
        Self {
            url,
            is_cut,
            frozen_before,
        }
    }
}

/// Carries one connection until it is cut.
async fn carry(
    mut client: TcpStream,
    target: String,
    cuts: watch::Receiver<bool>,
    frozen: impl Future<Output = ()>,
) {
    if *cuts.borrow() {
        return;
    }
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    let is_frozen = select! {
        _ = copy_bidirectional(&mut client, &mut server) => false,
        () = until(cuts, |is_cut| *is_cut) => false,
        () = frozen => true,
    };
    if is_frozen {
        std::future::pending().await
    }
}

/// Waits for the value; without a proxy there is nothing to wait for.
async fn until<T>(mut values: watch::Receiver<T>, wanted: impl FnMut(&T) -> bool) {
    drop(values.wait_for(wanted).await);
}

fn through(proxy: &Proxy, config: Config) -> Config {
    Config {
        connect: ConnectArgs::plain(&proxy.url),
        ..config
    }
}

#[tokio::test]
async fn a_job_in_work_and_those_that_wait_outlive_a_cut_of_the_network() {
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    let replies = fleet.all_replies().await;
    let proxy = Proxy::to(&fleet.server).await;
    let model = Held::new();
    let worker = fleet.work_with(through(&proxy, fleet.config("test", model.clone())));
    fleet.publish("test", "in-work", job()).await;
    model.until_inside(1).await;
    proxy.is_cut.send_replace(true);
    // What is handed to a connection that the broker does not know to be lost comes back when its lease ends.
    fleet
        .until("JOBS", |jobs| jobs.consumers[0].waiting_pulls == 0)
        .await;
    fleet.publish("test", "waits", job()).await;
    model.open();
    proxy.is_cut.send_replace(false);
    let results = replies.results(2).await;
    let results: Vec<_> = results
        .iter()
        .map(|result| (result.id.as_str(), ending(result), result.attempt))
        .collect();
    assert!(
        results.contains(&("in-work", "ok 1".to_owned(), Some(1))),
        "{results:?}"
    );
    assert!(
        results.contains(&("waits", "ok 1".to_owned(), Some(1))),
        "{results:?}"
    );
    assert_eq!(results.len(), 2);
    fleet.until_idle().await;
    worker.stop().await;
}

/// The incident: a connection that is dead without either end knowing, and a worker that waits on it for ever.
#[tokio::test]
#[ignore = "slow: silence is noticed after the third ping; run by deploy/test full"]
async fn slow_a_dead_connection_is_left_for_a_new_one() {
    let fleet = Fleet::start(&["test"], Settings::default()).await;
    let proxy = Proxy::to(&fleet.server).await;
    let worker = fleet.work_with(through(&proxy, fleet.config("test", Unreliable::fails(0))));
    assert_eq!(ending(&fleet.ask("test", "before", job()).await), "ok 1");
    proxy.frozen_before.send_replace(1);
    assert_eq!(ending(&fleet.ask("test", "after", job()).await), "ok 1");
    fleet.until_idle().await;
    worker.stop().await;
}

/// Three servers that know each other.
fn cluster() -> Vec<Server> {
    let free_port = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("bound").port()
    };
    let ports = [free_port(), free_port(), free_port()];
    let routes: Vec<String> = ports
        .iter()
        .map(|port| format!("nats://127.0.0.1:{port}"))
        .collect();
    let start = |port: &u16| {
        Server::start_with(&format!(
            "\nserver_name: s{port}\ncluster {{ name: test, listen: \"127.0.0.1:{port}\", routes: [{}] }}\n",
            routes.join(", ")
        ))
    };
    ports.iter().map(start).collect()
}

/// Leaders change by order and by a server's death, under load; three copies of everything.
#[tokio::test]
#[ignore = "slow: three servers and a failover; run by deploy/test full"]
async fn slow_a_fleet_outlives_changes_of_leaders() {
    const N_JOBS: usize = 300;
    let mut servers = cluster();
    let urls: Vec<String> = servers.iter().map(Server::url).collect();
    let urls = urls.join(",");
    let fleet = Fleet::over(servers.remove(0), &urls).await;
    let settings = Settings {
        replicas: Some(3),
        ..Settings::default()
    };
    fleet.set_up_when_ready(&["test"], &settings).await;
    let config = || Config {
        connect: ConnectArgs::plain(&urls),
        ..fleet.config("test", Unreliable::fails(0))
    };
    let workers = [fleet.work_with(config()), fleet.work_with(config())];
    let load = async {
        for index in 0..N_JOBS {
            until_queued(&fleet, &format!("j{index}")).await;
        }
    };
    let changes = async {
        for _ in 0..3 {
            for order in [
                "STREAM.LEADER.STEPDOWN.JOBS",
                "STREAM.LEADER.STEPDOWN.RESULTS",
                "CONSUMER.LEADER.STEPDOWN.JOBS.normal-test",
            ] {
                // Refused while there is no leader; then one is being chosen anyway.
                drop(
                    fleet
                        .client()
                        .request(format!("$JS.API.{order}"), "".into())
                        .await,
                );
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        drop(servers.pop());
    };
    let ((), ()) = tokio::join!(load, changes);
    for index in 0..N_JOBS {
        let name = format!("j{index}");
        let result = until_stored(&fleet, &name).await;
        assert_eq!(ending(&result), "ok 1", "{name}");
    }
    fleet.until_idle().await;
    assert!(fleet.dead_letters().await.is_empty());
    for worker in workers {
        worker.stop().await;
    }
}

/// Publishes a job until the broker has it.
async fn until_queued(fleet: &Fleet, name: &str) {
    let publish = async {
        loop {
            let subject = format!("segment.jobs.public.test.{name}");
            let sent = fleet.client().request(subject, job().payload.into()).await;
            let answer = sent.map(|answer| String::from_utf8_lossy(&answer.payload).into_owned());
            // Stored now, or by an earlier try whose answer was lost.
            if answer
                .is_ok_and(|text| !text.contains("error") || text.contains("\"err_code\":10077"))
            {
                return;
            }
        }
    };
    soon("the queueing of a job", publish).await;
}

async fn until_stored(fleet: &Fleet, name: &str) -> JobResult {
    let (tenant, job) = (Tenant::default(), name.parse().expect("a token"));
    let look = async {
        loop {
            if let Ok(Some(stored)) = fleet.broker.stored_result(&tenant, &job).await {
                let result = wire::read_result(stored.content_type(), &stored.payload);
                return result.expect("a result of the contract");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("a stored result", look).await
}
