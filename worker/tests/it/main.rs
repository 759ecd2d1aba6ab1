//! Jobs and results over a real nats-server, from a client that knows only the contract.

mod agreement;
mod batches;
mod command;
mod crash;
mod errors;
mod fleet;
mod formats;
#[path = "../../../common/tests/it/found.rs"]
mod found;
mod hostile;
mod isolation;
mod kubernetes;
mod life;
#[path = "../../../common/tests/it/manifests.rs"]
mod manifests;
mod metrics;
mod models;
mod network;
mod onnx;
mod outline;
mod packages;
#[path = "../../../common/tests/it/patience.rs"]
mod patience;
mod photographs;
mod program;
mod readme;
#[path = "../../../common/tests/it/server.rs"]
mod server;
#[path = "../../../common/tests/it/watched.rs"]
mod watched;
