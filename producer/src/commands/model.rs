//! `segfleet model`: the packages that the broker keeps for workers.
//!
//! What is inside a package only the worker knows: a push has `segfleet-worker` load it, and takes from it what the
//! package says of itself and the bytes to keep.

use std::{fs, path::PathBuf, process::Stdio};

use segfleet_common::{
    broker::{Broker, Change, Setup},
    package::{PackageInfo, PackageRef},
};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::Command;

use super::{CommandError, Exit, remark, say};
use crate::{
    config::{ModelCommand, ModelPushArgs},
    output,
};

/// The program that loads packages: beside this one, or else on the `PATH`.
const LOADER: &str = "segfleet-worker";

pub(super) async fn run(broker: &Broker, command: ModelCommand) -> Result<Exit, CommandError> {
    match command {
        ModelCommand::Push(args) => push(broker, &args).await,
        ModelCommand::Ls => {
            say(&output::packages(&broker.packages().await?));
            Ok(Exit::Ok)
        }
        ModelCommand::Show(args) => {
            let package = broker.find_package(&args.model).await?;
            say(&output::package(&package));
            Ok(Exit::Ok)
        }
        ModelCommand::Rm(args) => {
            // Nobody removes a version that was not named.
            if args.model.version.is_none() {
                let there = broker.find_package(&args.model).await?.reference();
                return Err(CommandError::Usage(format!(
                    "name the version to remove, such as {there}"
                )));
            }
            let package = broker.find_package(&args.model).await?;
            broker.remove_package(&package).await?;
            say(&format!("removed {}", args.model));
            Ok(Exit::Ok)
        }
    }
}

async fn push(broker: &Broker, args: &ModelPushArgs) -> Result<Exit, CommandError> {
    let folder = TempDir::new().map_err(|source| CommandError::Out {
        path: std::env::temp_dir(),
        source,
    })?;
    let packed = folder.path().join("package.tar");
    let Some(info) = check(args, &packed).await? else {
        return Ok(Exit::NotOk);
    };
    let content = fs::read(&packed).map_err(|source| CommandError::Out {
        path: packed,
        source,
    })?;
    let stored = broker
        .push_package(&info, &args.pushed_by(), &content.into())
        .await?;
    let reference: PackageRef = stored.reference();
    say(&format!("pushed   {reference}  {}", stored.info.digest));
    let setup = Setup {
        broker,
        tenant: &args.tenant.tenant,
        models: std::slice::from_ref(&info.name),
        settings: &args.to_settings(),
    };
    for change in setup.run().await? {
        if !matches!(change, Change::Kept(_)) {
            say(&change.to_string());
        }
    }
    Ok(Exit::Ok)
}

/// What `segfleet-worker model check --json` prints.
#[derive(Deserialize)]
struct Checked {
    name: String,
    version: String,
    digest: String,
    licence: String,
    /// Packages need not say it.
    #[serde(default)]
    task: String,
}

/// Has the package loaded, tried and packed. `None` when it is not one; the loader has said why.
async fn check(
    args: &ModelPushArgs,
    packed: &std::path::Path,
) -> Result<Option<PackageInfo>, CommandError> {
    let unusable = |why: String| CommandError::Usage(format!("{LOADER} {why}"));
    let loader = loader();
    let checked = Command::new(&loader)
        .args(["model", "check", "--json", "--pack"])
        .arg(packed)
        .arg(&args.package)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .await
        .map_err(|error| {
            unusable(format!(
                "is needed to check the package, and cannot be run as {}: {error}",
                loader.display()
            ))
        })?;
    if !checked.status.success() {
        String::from_utf8_lossy(&checked.stderr)
            .lines()
            .for_each(remark);
        return Ok(None);
    }
    let read = || {
        let said: Checked =
            serde_json::from_slice(&checked.stdout).map_err(|error| error.to_string())?;
        Ok(PackageInfo {
            name: said.name.parse().map_err(|error| format!("{error}"))?,
            version: said.version.parse().map_err(|error| format!("{error}"))?,
            digest: said.digest,
            licence: said.licence,
            task: said.task,
        })
    };
    let info: Result<PackageInfo, String> = read();
    info.map(Some)
        .map_err(|error| unusable(format!("is of another version: {error}")))
}

fn loader() -> PathBuf {
    let beside = std::env::current_exe().map(|this| this.with_file_name(LOADER));
    beside
        .ok()
        .filter(|path| path.exists())
        .unwrap_or_else(|| LOADER.into())
}
