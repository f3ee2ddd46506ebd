//! Whether a job can be done, and whether a checkpoint belongs to it.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{TrainError, TrainJob};
use crate::digest::hex;
use crate::trainer::checkpoint::{CheckpointState, NumericPath, RunIdentity};
use crate::trainer::config::{TrainConfig, TrainDtype};
use crate::trainer::operations::Operations;
use crate::trainer::parameters::NumberFormat;
use crate::trainer::prefixes::SharedPrefixes;

/// Refuses what cannot be trained before anything is written.
pub(super) fn check(job: &TrainJob<'_>) -> Result<(), TrainError> {
    job.config.validate().map_err(TrainError::Config)?;
    if job.rows.is_empty() {
        return Err(TrainError::NoRows);
    }
    for row in job.rows.iter().chain(job.held_out) {
        let length = row.input_ids.len();
        let limit = job
            .config
            .max_seq_len
            .min(job.model.max_position_embeddings);
        let reason = if row.label_mask.len() != length {
            format!("{length} tokens have {} labels", row.label_mask.len())
        } else if length > limit {
            format!(
                "it has {length} tokens, more than the {limit} of max_seq_len and the student's context"
            )
        } else if length > job.split.micro_batch_tokens {
            format!(
                "it has {length} tokens, more than the {} of a micro-batch",
                job.split.micro_batch_tokens
            )
        } else if row.label_tokens() == 0 {
            "no token of it is a label, so there is nothing to learn".to_owned()
        } else if let Some(id) = row
            .input_ids
            .iter()
            .find(|id| **id as usize >= job.model.vocab_size)
        {
            format!(
                "token {id} is outside the student's vocabulary of {}; it was made with another tokenizer",
                job.model.vocab_size
            )
        } else {
            continue;
        };
        return Err(TrainError::Row {
            example: row.example,
            reason,
        });
    }
    Ok(())
}

/// What the weights of this run depend on.
pub(super) fn identity(job: &TrainJob<'_>) -> RunIdentity {
    let mut digest = Sha256::new();
    for row in job.rows {
        digest.update((row.input_ids.len() as u64).to_le_bytes());
        for (id, label) in row.input_ids.iter().zip(&row.label_mask) {
            digest.update(id.to_le_bytes());
            digest.update([u8::from(*label)]);
        }
    }
    // "auto" is another thing on another device.
    let dtype = job.config.dtype.on(job.device.kind).into();
    let config = TrainConfig {
        dtype,
        ..job.config.clone()
    };
    RunIdentity {
        config: config.trajectory(),
        model: job.model.to_json("float32"),
        rows_sha256: hex(&digest.finalize()),
        lora_dropout: job.config.lora.as_ref().map(|lora| lora.lora_dropout),
    }
}

/// How a fresh run computes on this machine.
pub(super) fn numeric_path(
    job: &TrainJob<'_>,
    operations: &dyn Operations,
    moments: NumberFormat,
) -> NumericPath {
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    NumericPath {
        engine: operations.name().to_owned(),
        dtype: match job.config.dtype.on(job.device.kind) {
            TrainDtype::F32 => "f32".to_owned(),
            TrainDtype::Bf16 => "bf16".to_owned(),
        },
        threads: if job.threads == 0 { all() } else { job.threads },
        instructions: operations.instructions(),
        micro_batch_tokens: job.split.micro_batch_tokens,
        shared_prefixes: match job.config.share_prefixes {
            true => SharedPrefixes::of(job.rows),
            false => SharedPrefixes::none(),
        },
        recompute: job.split.recompute,
        moments,
        world_size: job.ranks.world_size(),
    }
}

/// Refuses a checkpoint of other settings, another student or other rows.
pub(super) fn compare(
    job: &TrainJob<'_>,
    state: &CheckpointState,
    identity: &RunIdentity,
) -> Result<(), TrainError> {
    let mut now = identity.clone();
    if state.identity.lora_dropout.is_none()
        && identity.lora_dropout == Some(0.0)
        && let Some(lora) = now.config["lora"].as_object_mut()
    {
        // A run from before there was dropout has none, and does not say so.
        lora.shift_remove("lora_dropout");
    }
    let differences = differences(&state.identity, &now);
    if differences.is_empty() {
        Ok(())
    } else {
        Err(TrainError::OtherRun {
            dir: job.dir.to_owned(),
            differences,
        })
    }
}

/// Each thing in which two runs differ, with what it was and what it is now.
pub(super) fn differences(then: &RunIdentity, now: &RunIdentity) -> Vec<String> {
    let mut differences = Vec::new();
    let parts = [
        ("trainer", &then.config, &now.config),
        ("student", &then.model, &now.model),
    ];
    for (part, then, now) in parts {
        let keys = |value: &Value| -> Vec<String> {
            value
                .as_object()
                .into_iter()
                .flat_map(|o| o.keys().cloned())
                .collect()
        };
        let mut names = keys(then);
        names.extend(keys(now).into_iter().filter(|key| then.get(key).is_none()));
        for name in names {
            if then.get(&name) != now.get(&name) {
                let text = |v: Option<&Value>| v.map_or("unset".to_owned(), Value::to_string);
                differences.push(format!(
                    "{part}.{name} was {} and is now {}",
                    text(then.get(&name)),
                    text(now.get(&name))
                ));
            }
        }
    }
    if then.rows_sha256 != now.rows_sha256 {
        differences.push("the examples or their tokens are not the same".to_owned());
    }
    differences
}
