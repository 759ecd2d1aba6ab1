//! `segfleet dead`: what the fleet gave up on.

use std::fs;

use segfleet_common::{
    broker::{Broker, DeadError, DeadLetter},
    subject::JobId,
};

use super::{CommandError, Exit, remark, say};
use crate::{
    config::{DeadChoiceArgs, DeadCommand, DeadShowArgs},
    output,
};

pub(super) async fn run(broker: &Broker, command: &DeadCommand) -> Result<Exit, CommandError> {
    match command {
        DeadCommand::Ls(filter) => {
            let letters = broker.dead_letters(&filter.to_filter(None)).await?;
            say(&output::dead(&letters));
            let tenant = &filter.tenant.tenant;
            if letters.is_empty() && broker.models(tenant).await?.is_none() {
                remark(&format!(
                    "tenant {tenant} is not set up; run: segfleet setup --tenant {tenant}"
                ));
                return Ok(Exit::Broker);
            }
            Ok(Exit::Ok)
        }
        DeadCommand::Show(args) => show(broker, args).await,
        DeadCommand::Requeue(args) => {
            each(broker, args, async |letter| {
                let job = broker.requeue(letter).await?;
                say(&format!("{} -> {job}", letter.job.job));
                broker.drop_dead_letter(letter).await
            })
            .await
        }
        DeadCommand::Drop(args) => {
            each(broker, args, async |letter| {
                broker.drop_dead_letter(letter).await?;
                say(letter.job.job.as_str());
                Ok(())
            })
            .await
        }
    }
}

async fn show(broker: &Broker, args: &DeadShowArgs) -> Result<Exit, CommandError> {
    let letters = broker
        .dead_letters(&args.filter.to_filter(Some(&args.job)))
        .await?;
    let Some(letter) = letters.last() else {
        remark(&none(&args.job));
        return Ok(Exit::NotOk);
    };
    say(&output::dead_letter(letter));
    if let Some(path) = &args.payload {
        let payload = broker.dead_payload(letter).await?.payload;
        fs::write(path, payload).map_err(|source| CommandError::Out {
            path: path.clone(),
            source,
        })?;
    }
    Ok(Exit::Ok)
}

/// Does the same with all letters that are meant. One that fails does not stop the others.
async fn each(
    broker: &Broker,
    args: &DeadChoiceArgs,
    what: impl AsyncFn(&DeadLetter) -> Result<(), DeadError>,
) -> Result<Exit, CommandError> {
    let mut letters = Vec::new();
    let mut exit = Exit::Ok;
    for job in &args.jobs {
        let found = broker
            .dead_letters(&args.filter.to_filter(Some(job)))
            .await?;
        if found.is_empty() {
            remark(&none(job));
            exit = Exit::NotOk;
        }
        letters.extend(found);
    }
    if args.all {
        letters = broker.dead_letters(&args.filter.to_filter(None)).await?;
    }
    for letter in &letters {
        if let Err(error) = what(letter).await {
            remark(&format!("{}: {error}", letter.job.job));
            exit = match error {
                DeadError::Gone(_) if exit == Exit::Ok => Exit::NotOk,
                DeadError::Gone(_) => exit,
                DeadError::Streams(_) | DeadError::Publish(_) => Exit::Broker,
            };
        }
    }
    Ok(exit)
}

fn none(job: &JobId) -> String {
    format!("job {job} has no dead letter that the filters let through")
}
