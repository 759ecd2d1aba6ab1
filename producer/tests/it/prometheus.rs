//! A real Prometheus that scrapes programs of ours.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{net::TcpStream, time::sleep};

use crate::{
    found::found_by,
    patience::soon,
    watched::{Watched, free_address},
};

/// A Prometheus that scrapes programs twice a second; ended when it leaves scope.
pub(crate) struct Prometheus {
    child: Child,
    api: Watched,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts one that scrapes programs under these names.
    pub(crate) fn start(programs: &[(&str, Watched)]) -> Self {
        let folder = TempDir::with_prefix("segfleet-prometheus-").expect("a temporary folder");
        let scrapes: Vec<String> = programs
            .iter()
            .map(|(name, watched)| {
                format!(
                    "{{job_name: {name}, static_configs: [{{targets: ['{}']}}]}}",
                    watched.address
                )
            })
            .collect();
        let config = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\nscrape_configs: [{}]\n",
            scrapes.join(", ")
        );
        let path = folder.path().join("prometheus.yml");
        std::fs::write(&path, config).expect("writable");
        let address = free_address();
        let child = Command::new(found_by("observability/find-prometheus", &[]))
            .arg(format!("--config.file={}", path.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .args(["--enable-feature=exemplar-storage", "--log.level=error"])
            .stdin(Stdio::null())
            .spawn();
        Self {
            child: child.expect("it starts"),
            api: Watched::new("prometheus", address),
            _folder: folder,
        }
    }

    /// Waits until the API's answer has this at `pointer`, and returns all of it.
    pub(crate) async fn until(&self, path: &str, pointer: &str) -> Value {
        let look = async {
            loop {
                let answer = self.ask(path).await;
                if answer.pointer(pointer).is_some() {
                    return answer["data"].clone();
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        soon(&format!("Prometheus' answer to {path}"), look).await
    }

    /// What the API says; nothing until it has started.
    async fn ask(&self, path: &str) -> Value {
        if TcpStream::connect(self.api.address).await.is_err() {
            return Value::Null;
        }
        let body = self.api.get(path).await.body;
        serde_json::from_str(&body).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
