//! That all ranks do the same job.

use serde_json::Value;

use super::TrainError;
use super::admission::differences;
use crate::trainer::checkpoint::{NumericPath, RunIdentity};
use crate::trainer::collective::{Collective, CollectiveError};
use crate::trainer::plan::Split;

/// Refuses a rank that was given another job than rank 0, and gives the split that rank 0 has chosen:
/// the planner's choice depends on the memory of a machine.
pub(super) fn on_the_job(
    ranks: &dyn Collective,
    identity: &RunIdentity,
    split: Split,
) -> Result<Split, TrainError> {
    if ranks.world_size() == 1 {
        return Ok(split);
    }
    let said = ranks.broadcast_bytes(&json(&(identity, split)))?;
    let (first, split): (RunIdentity, Split) = serde_json::from_slice(&said).map_err(|error| {
        disagreement(ranks, format!("it cannot read what rank 0 says ({error})"))
    })?;
    let differences = differences(&first, identity);
    if differences.is_empty() {
        Ok(split)
    } else {
        let told = differences.join("; ");
        Err(disagreement(ranks, format!("at rank 0 and here, {told}")))
    }
}

/// Refuses a rank that does not go on from where rank 0 does.
pub(super) fn on_the_checkpoint(
    ranks: &dyn Collective,
    step: Option<u64>,
) -> Result<(), TrainError> {
    if ranks.world_size() == 1 {
        return Ok(());
    }
    let said = ranks.broadcast_bytes(&json(&step))?;
    if said == json(&step) {
        return Ok(());
    }
    let told = |step: Option<u64>| match step {
        Some(step) => format!("the checkpoint of step {step}"),
        None => "no checkpoint".to_owned(),
    };
    let first = serde_json::from_slice(&said).unwrap_or_default();
    let what = format!(
        "rank 0 found {}, this one {}; the run's directory must be one and the same for all",
        told(first),
        told(step)
    );
    Err(disagreement(ranks, what))
}

fn disagreement(ranks: &dyn Collective, what: String) -> TrainError {
    let rank = ranks.rank();
    CollectiveError::Disagreement { rank, what }.into()
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    let value: Value = serde_json::to_value(value).expect("texts, numbers and lists become JSON");
    value.to_string().into_bytes()
}

/// A sentence for a run that does not go on as it was begun.
pub(super) fn changed(then: &NumericPath, now: &NumericPath) -> Option<String> {
    let with_ranks = NumericPath {
        world_size: now.world_size,
        threads: now.threads,
        ..then.clone()
    };
    let digits = "the last digits will not be those of an uninterrupted run";
    if with_ranks != *now {
        let facts = |path: &NumericPath| {
            [
                ("engine", path.engine.clone()),
                ("number format", path.dtype.clone()),
                ("instructions", path.instructions.clone()),
                (
                    "tokens of a micro-batch",
                    path.micro_batch_tokens.to_string(),
                ),
                ("computed again", path.recompute.to_string()),
                ("moments", path.moments.dtype().as_str().to_owned()),
            ]
        };
        let differ = |((name, then), (_, now)): ((&str, String), (&str, String))| {
            (then != now).then(|| format!("{name}: {then}, now {now}"))
        };
        let differences = facts(then).into_iter().zip(facts(now)).filter_map(differ);
        let mut differences: Vec<String> = differences.collect();
        if then.shared_prefixes != now.shared_prefixes {
            differences.push("other beginnings of rows are shared".to_owned());
        }
        Some(format!(
            "this run goes on otherwise than its checkpoint was computed ({}): {digits}",
            differences.join("; ")
        ))
    } else if then.world_size != now.world_size {
        let ranks = |count| match count {
            1 => "one rank".to_owned(),
            count => format!("{count} ranks"),
        };
        Some(format!(
            "the checkpoint was computed by {}, and {} go on: {digits}",
            ranks(then.world_size),
            ranks(now.world_size)
        ))
    } else {
        None
    }
}
