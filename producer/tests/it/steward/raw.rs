//! [`Raw`]: bytes that no client library would send.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
};

use super::PATIENCE;
use crate::fleet::Fleet;

/// A client that sends and receives bytes as they are, such as headers that are none.
pub(super) struct Raw {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
}

impl Raw {
    pub(super) fn connect(fleet: &Fleet) -> Self {
        let url = fleet.server.url();
        let stream = TcpStream::connect(url.trim_start_matches("nats://")).expect("a broker");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let lines = BufReader::new(stream.try_clone().expect("a socket"));
        let mut raw = Self { stream, lines };
        raw.send(b"CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB raw 1\r\n");
        raw
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("connected");
    }

    pub(super) fn publish_job(&mut self, job: &[u8], headers: &[u8], payload: &[u8]) {
        let (n_headers, n_bytes) = (headers.len(), headers.len() + payload.len());
        let start = b"HPUB segment.jobs.public.threshold.";
        let sizes = format!(" raw {n_headers} {n_bytes}\r\n");
        self.send(&[start, job, sizes.as_bytes(), headers, payload, b"\r\n"].concat());
        self.until_line("MSG raw ");
    }

    /// Pulls one job and gives it back.
    pub(super) fn pull_and_nak(&mut self) {
        self.send(b"PUB $JS.API.CONSUMER.MSG.NEXT.JOBS.normal-threshold raw 0\r\n\r\n");
        let line = self.until_line("HMSG segment.jobs.");
        let settle_at = line.split(' ').nth(3).expect("a reply subject");
        let nak = format!("PUB {settle_at} raw 4\r\n-NAK\r\n");
        self.send(nak.as_bytes());
        self.until_line("MSG raw ");
    }

    fn until_line(&mut self, start: &str) -> String {
        loop {
            let mut line = Vec::new();
            let n_bytes = self.lines.read_until(b'\n', &mut line).expect("in time");
            assert_ne!(n_bytes, 0, "the broker closed the connection");
            if line.starts_with(b"PING") {
                self.send(b"PONG\r\n");
            }
            if line.starts_with(start.as_bytes()) {
                return String::from_utf8_lossy(&line).into_owned();
            }
        }
    }
}
