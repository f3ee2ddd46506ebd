//! What a training run will take, known from `config.json` and the settings alone.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::batches::{Batches, pack, shares, steps_per_epoch, total_steps};
use super::checkpoint::checkpoint_bytes;
use super::collective::part;
use super::config::{DtypeSetting, MicroBatchTokens, RecomputeSetting, TrainConfig, TrainDtype};
use super::device::{ComputeDevice, DeviceKind};
use super::engine::{self, Capacity, Recompute};
use super::formats::Formats;
use super::operations::gpu;
use super::parameters::NumberFormat;
use super::prefixes::SharedPrefixes;
use super::schedule::warmup_steps;
use super::template::Row;
use crate::llama::LlamaConfig;

/// How long the examples are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TokenLengths<'a> {
    /// The rows themselves.
    Rows(&'a [Row]),
    /// A guess before there are examples.
    Estimated {
        /// Examples to come.
        examples: usize,
        /// Mean tokens of an example; about 128 for Alpaca's under LLaMA's tokenizer.
        mean_tokens: f64,
    },
}

/// Where a run is to take place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Kind of device.
    pub kind: DeviceKind,
    /// Memory that can be had on it, where that is known.
    pub available_bytes: Option<u64>,
    /// How many such places share the steps and AdamW's moments: see [`super::collective`].
    pub ranks: usize,
}

impl Room {
    /// A card that is sold with so many gigabytes, with nothing on it but its driver. Makers count as
    /// memory does, by 1024.
    pub fn card(gigabytes: u64) -> Self {
        Self {
            kind: DeviceKind::Cuda,
            available_bytes: Some((gigabytes << 30).saturating_sub(DRIVER_ON_A_CARD)),
            ranks: 1,
        }
    }
}

/// What a process's context and the driver take of a card: of an H100's 81,559 MiB about half of this;
/// the rest are bytes that makers round up.
const DRIVER_ON_A_CARD: u64 = 900 << 20;

impl From<&ComputeDevice> for Room {
    fn from(device: &ComputeDevice) -> Self {
        Self {
            kind: device.kind,
            available_bytes: device.available_bytes,
            ranks: 1,
        }
    }
}

/// One line of the memory table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryItem {
    /// What it holds.
    pub purpose: String,
    /// How much that takes.
    pub bytes: u64,
}

impl MemoryItem {
    fn new(purpose: &str, bytes: u64) -> Self {
        Self {
            purpose: purpose.to_owned(),
            bytes,
        }
    }
}

fn sum(memory: &[MemoryItem]) -> u64 {
    memory.iter().map(|item| item.bytes).sum()
}

/// The plan of a training run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Examples that are trained on.
    pub examples: usize,
    /// Parameters of the model.
    pub parameters: u64,
    /// Those that are trained.
    pub trained_parameters: u64,
    /// Optimizer steps of one pass over the examples.
    pub steps_per_epoch: u64,
    /// Optimizer steps in all.
    pub total_steps: u64,
    /// Steps in which the learning rate rises.
    pub warmup_steps: u64,
    /// Examples in one step.
    pub batch_size: usize,
    /// Ranks that share a step.
    pub ranks: usize,
    /// How a step is split, and what is computed again.
    pub split: Split,
    /// Tokens trained on in all, prompts included, after truncation.
    pub tokens: u64,
    /// Whether `tokens` rests on a guess.
    pub tokens_estimated: bool,
    /// Those of `tokens` that go through the model, where the rows are known: the beginning that
    /// many prompts share does so once in a micro-batch, what follows the last label never.
    pub computed_tokens: Option<u64>,
    /// What it runs on.
    pub device: DeviceKind,
    /// What lies in that device's memory while a step runs.
    pub memory: Vec<MemoryItem>,
    /// Sum of `memory`.
    pub memory_bytes: u64,
    /// What that sum would be, were other things computed again at the same micro-batch.
    pub memory_by_recompute: [(Recompute, u64); Recompute::ALL.len()],
    /// Of these, weights, gradients and moments: what no micro-batch changes.
    pub state_bytes: u64,
    /// Disk space of the checkpoints at their most: those kept and the one being written.
    pub checkpoint_bytes: u64,
    /// Expected time of all steps, if a speed was given.
    pub seconds: Option<f64>,
    /// Who chose the split.
    #[serde(skip)]
    chosen: Chosen,
}

/// Who chose a [`Split`].
#[derive(Debug, Clone, PartialEq)]
enum Chosen {
    /// The planner.
    ByPlanner,
    /// These settings, at least in part; left to the planner, it would take so many bytes.
    BySettings(Vec<&'static str>, u64),
    /// The run, when it began.
    AtTheBeginning,
}

fn chosen(model: &LlamaConfig, config: &TrainConfig, longest_row: usize, room: Room) -> Chosen {
    let tokens = config.micro_batch_tokens != MicroBatchTokens::Auto;
    let given = [
        ("micro_batch_tokens", tokens),
        ("recompute", config.recompute.given().is_some()),
        ("moments_dtype", config.moments_dtype.given().is_some()),
    ];
    let names: Vec<_> = given
        .iter()
        .filter(|(_, given)| *given)
        .map(|(name, _)| *name)
        .collect();
    if names.is_empty() {
        return Chosen::ByPlanner;
    }
    let left_open = TrainConfig {
        micro_batch_tokens: MicroBatchTokens::Auto,
        recompute: RecomputeSetting::Auto,
        moments_dtype: DtypeSetting::Auto,
        ..config.clone()
    };
    let split = Split::choose(model, &left_open, longest_row, room);
    Chosen::BySettings(names, sum(&memory_of(model, &left_open, room, split)))
}

/// How a step goes through the model: decided at the start of a run, and kept on resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// Most tokens of a micro-batch.
    pub micro_batch_tokens: usize,
    /// What is computed again for the backward pass.
    pub recompute: Recompute,
    /// How AdamW's moments are kept.
    pub moments: NumberFormat,
}

impl Split {
    /// What the settings leave open, chosen: the quickest split that fits into the memory that there
    /// is, or else the smallest. No micro-batch has room for more than a step of the longest rows.
    pub fn choose(
        model: &LlamaConfig,
        config: &TrainConfig,
        longest_row: usize,
        room: Room,
    ) -> Self {
        let sizes = match config.micro_batch_tokens {
            MicroBatchTokens::Tokens(tokens) => vec![tokens],
            MicroBatchTokens::Auto => {
                let least = config.max_seq_len;
                let most = least.max(
                    config
                        .batch_size
                        .div_ceil(room.ranks)
                        .saturating_mul(longest_row),
                );
                let above = micro_batches(room.kind)
                    .iter()
                    .map(|tokens| *tokens.min(&most));
                let above = above.filter(|tokens| *tokens > least);
                let mut sizes: Vec<usize> = above.chain([least]).collect();
                sizes.dedup();
                sizes
            }
        };
        let levels = match config.recompute.given() {
            Some(recompute) => vec![recompute],
            None => Recompute::ALL.to_vec(),
        };
        let on_card = room.kind == DeviceKind::Cuda;
        let reference = on_card && config.dtype.on(room.kind) == TrainDtype::F32;
        let moments = match config.moments_dtype.given() {
            Some(format) => vec![format],
            None if reference => vec![NumberFormat::F32],
            None => vec![NumberFormat::F32, NumberFormat::Bf16],
        };
        let mut splits = Vec::new();
        for moments in moments {
            for &micro_batch_tokens in &sizes {
                splits.extend(levels.iter().map(|&recompute| Self {
                    micro_batch_tokens,
                    recompute,
                    moments,
                }));
            }
        }
        // Whole layers computed again cost a third; no size of a micro-batch costs as much. A card
        // multiplies small micro-batches slowly, and rounding moments costs no time. The processor is
        // where runs are compared with others': there moments are rounded last of all.
        splits.sort_by_key(|split| {
            let rounded = !on_card && split.moments == NumberFormat::Bf16;
            let small = on_card && split.micro_batch_tokens < SMALL_ON_A_CARD;
            (rounded, split.recompute == Recompute::Layers, small)
        });
        let bytes = |split: &Self| sum(&memory_of(model, config, room, *split));
        let limit = room.available_bytes;
        let limit = limit.map_or(f64::INFINITY, |bytes| share(room.kind) * bytes as f64);
        splits
            .iter()
            .find(|split| bytes(split) as f64 <= limit)
            .or_else(|| splits.iter().min_by_key(|split| bytes(split)))
            .copied()
            .expect("there is at least one size and one level")
    }
}

/// Sizes of a micro-batch that the planner chooses from, the quickest first. Larger ones share more of
/// the prompts' beginnings; above these that is worth little on a CPU.
fn micro_batches(kind: DeviceKind) -> &'static [usize] {
    match kind {
        DeviceKind::Cpu => &[2048, 1024, 512],
        DeviceKind::Cuda => &[16384, 12288, 8192, 6144, 4096, 3072, 2048, 1024, 512],
    }
}

/// Below so many tokens of a micro-batch a card's products are far from their full speed: of LLaMA
/// 7B's, 555 TFLOP/s at least at 1024 tokens, 641 at 4096 (docs/gpu.md).
const SMALL_ON_A_CARD: usize = 2048;

/// The part of the available memory that a choice of the planner may fill. A card's is the run's
/// alone, and what lies in it is known in advance.
fn share(kind: DeviceKind) -> f64 {
    match kind {
        DeviceKind::Cpu => 0.8,
        DeviceKind::Cuda => 0.98,
    }
}

/// What NCCL is taken to need on a card for its channels to the others; not measured.
const NCCL_ON_A_CARD: u64 = 1 << 30;

/// What the libraries for products take of a card, and code that is loaded when it is first used.
const WORKSPACE_ON_A_CARD: u64 = 128 << 20;

/// Why a plan cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// More memory is needed than there is.
    #[error(
        "training this student needs {} of memory, {} are available; {} of that is weights, gradients and \
         optimizer state of {} parameters. {}",
        size(*.needed_bytes), size(*.available_bytes), size(*.state_bytes), grouped(*.parameters), way_out
    )]
    DoesNotFit {
        /// What is needed.
        needed_bytes: u64,
        /// What there is.
        available_bytes: u64,
        /// The part that no setting changes.
        state_bytes: u64,
        /// Parameters of the model.
        parameters: u64,
        /// What to change.
        way_out: String,
    },
}

/// Plans a run of `config` over `lengths` on the student `model`; no weights are needed.
///
/// What the settings leave open is chosen to fit into the `room`, where its memory is known. `tokens_per_second` is a measured speed of this student on this machine, if there is one.
pub fn plan(
    model: &LlamaConfig,
    config: &TrainConfig,
    lengths: TokenLengths<'_>,
    room: Room,
    tokens_per_second: Option<f64>,
) -> Plan {
    let (examples, mean_tokens, rows) = match lengths {
        TokenLengths::Rows(rows) => {
            let sum: usize = rows.iter().map(|row| row.input_ids.len()).sum();
            (
                rows.len(),
                sum as f64 / rows.len().max(1) as f64,
                Some(rows),
            )
        }
        TokenLengths::Estimated {
            examples,
            mean_tokens,
        } => (examples, mean_tokens, None),
    };
    let per_epoch = steps_per_epoch(config.batch_size, examples);
    let total = if examples == 0 {
        0
    } else {
        total_steps(config, examples)
    };
    let whole_epochs = total.checked_div(per_epoch).unwrap_or(0);
    let rest = (total - whole_epochs * per_epoch) * config.batch_size as u64;
    let examples_seen = whole_epochs * examples as u64 + rest.min(examples as u64);
    let tokens = (examples_seen as f64 * mean_tokens).round() as u64;

    let longest = rows.map(|rows| rows.iter().map(Row::input_tokens).max().unwrap_or(0));
    let longest = longest.unwrap_or(config.max_seq_len);
    let split = Split::choose(model, config, longest, room);
    let memory = memory_of(model, config, room, split);
    let parameters = model.parameter_count();
    let trained = config
        .lora
        .as_ref()
        .map_or(parameters, |lora| lora.parameter_count(model));
    Plan {
        examples,
        parameters: parameters as u64,
        trained_parameters: trained as u64,
        steps_per_epoch: per_epoch,
        total_steps: total,
        warmup_steps: warmup_steps(config.warmup_ratio, total),
        batch_size: config.batch_size,
        ranks: room.ranks,
        split,
        tokens,
        tokens_estimated: rows.is_none(),
        computed_tokens: rows.map(|rows| {
            (tokens as f64 * computed_share(config, split, room.ranks, rows)).round() as u64
        }),
        device: room.kind,
        state_bytes: sum(&state_of(model, config, room, split)),
        memory_bytes: sum(&memory),
        memory,
        memory_by_recompute: Recompute::ALL.map(|recompute| {
            let split = Split { recompute, ..split };
            (recompute, sum(&memory_of(model, config, room, split)))
        }),
        checkpoint_bytes: checkpoint_bytes(trained, split.moments)
            * (config.keep_checkpoints as u64 + 1),
        seconds: tokens_per_second
            .filter(|speed| *speed > 0.0)
            .map(|speed| tokens as f64 / speed),
        chosen: chosen(model, config, longest, room),
    }
}

/// Weights, gradients and moments, in a device's memory.
fn state_of(
    model: &LlamaConfig,
    config: &TrainConfig,
    room: Room,
    split: Split,
) -> Vec<MemoryItem> {
    let kind = room.kind;
    let item = MemoryItem::new;
    let formats = Formats::of(kind, config.dtype.on(kind), split.moments);
    let parameters = model.parameter_count() as u64;
    let lora = config.lora.as_ref();
    let trained = lora.map_or(parameters, |lora| lora.parameter_count(model) as u64);
    // The largest part, which is that of rank 0.
    let own = part(trained as usize, room.ranks, 0).len() as u64;
    let mut memory = match lora {
        None => vec![item("weights", formats.trained.bytes() * parameters)],
        Some(_) => vec![
            item("weights", formats.frozen.bytes() * parameters),
            item("adapters", formats.trained.bytes() * trained),
        ],
    };
    memory.extend([
        item("gradients", formats.gradients.bytes() * trained),
        item("AdamW first moment", formats.moments.bytes() * own),
        item("AdamW second moment", formats.moments.bytes() * own),
    ]);
    memory
}

/// What lies in a device's memory while a step runs.
fn memory_of(
    model: &LlamaConfig,
    config: &TrainConfig,
    room: Room,
    split: Split,
) -> Vec<MemoryItem> {
    let kind = room.kind;
    let mut memory = state_of(model, config, room, split);
    let formats = Formats::of(kind, config.dtype.on(kind), split.moments);
    let capacity = Capacity {
        tokens: split.micro_batch_tokens,
        recompute: split.recompute,
        lora_rank: config.lora.as_ref().map_or(0, |lora| lora.r),
        dropout_width: (config.lora.as_ref()).map_or(0, |lora| lora.dropout_width(model)),
        label_rows: formats.label_rows,
        activations: formats.activations,
    };
    memory.extend(
        engine::buffers(model, capacity)
            .into_iter()
            .map(|(purpose, bytes)| MemoryItem::new(purpose, bytes)),
    );
    if kind == DeviceKind::Cuda {
        let scratch = gpu::scratch_bytes(model, split.micro_batch_tokens) as u64;
        let purpose = "products' and kernels' scratch";
        memory.push(MemoryItem::new(purpose, WORKSPACE_ON_A_CARD + scratch));
        if room.ranks > 1 {
            memory.push(MemoryItem::new("buffers of NCCL", NCCL_ON_A_CARD));
        }
    }
    memory
}

/// The share of all tokens that goes through the model, seen over one epoch at most.
fn computed_share(config: &TrainConfig, split: Split, ranks: usize, rows: &[Row]) -> f64 {
    let longest = rows.iter().map(Row::input_tokens).max().unwrap_or(0);
    if rows.is_empty() || longest > split.micro_batch_tokens {
        return 1.0;
    }
    let prefixes = match config.share_prefixes {
        true => SharedPrefixes::of(rows),
        false => SharedPrefixes::none(),
    };
    let mut batches = Batches::new(config, rows.len());
    let (mut computed, mut all) = (0, 0);
    for step in 0..batches.total_steps().min(batches.steps_per_epoch()) {
        let members = batches.step(step);
        let tokens = members.iter().map(|&row| rows[row].input_ids.len());
        all += tokens.sum::<usize>();
        for share in shares(rows, &members, &prefixes, ranks) {
            let packed = pack(rows, &share, split.micro_batch_tokens, &prefixes);
            computed += packed.iter().map(|b| b.input_ids.len()).sum::<usize>();
        }
    }
    computed as f64 / all.max(1) as f64
}

impl Plan {
    /// Whether the run fits into `available_bytes` of memory.
    pub fn fits(&self, available_bytes: u64) -> Result<(), PlanError> {
        if self.memory_bytes <= available_bytes {
            return Ok(());
        }
        Err(PlanError::DoesNotFit {
            needed_bytes: self.memory_bytes,
            available_bytes,
            state_bytes: self.state_bytes,
            parameters: self.parameters,
            way_out: self.way_out(available_bytes),
        })
    }

    /// The plan of a run that has begun, and keeps its split.
    #[must_use]
    pub fn begun(mut self) -> Self {
        self.chosen = Chosen::AtTheBeginning;
        self
    }

    /// What to change where the run does not fit.
    fn way_out(&self, available_bytes: u64) -> String {
        let larger = match self.device {
            DeviceKind::Cpu => "a machine with more memory",
            DeviceKind::Cuda => "a larger card",
        };
        match &self.chosen {
            Chosen::BySettings(names, bytes) if *bytes <= available_bytes => format!(
                "Leave {} out of [trainer]: the planner's choice takes {}",
                names.join(", "),
                size(*bytes)
            ),
            Chosen::AtTheBeginning if self.state_bytes <= available_bytes => format!(
                "The run keeps the micro-batches that it began with: free some memory, go on on {larger}, or begin anew in another directory"
            ),
            _ if self.trained_parameters < self.parameters => {
                format!("Choose a smaller student, or {larger}")
            }
            _ => format!(
                "Train adapters instead ([trainer.lora]), or choose a smaller student or {larger}"
            ),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = if self.tokens_estimated { "about " } else { "" };
        writeln!(f, "training")?;
        let mut line = |name: &str, value: String| writeln!(f, "  {name:<32} {value:>14}");
        line("examples", grouped(self.examples as u64))?;
        line("examples in a step", grouped(self.batch_size as u64))?;
        if self.ranks > 1 {
            line("ranks that share a step", grouped(self.ranks as u64))?;
        }
        line("steps in an epoch", grouped(self.steps_per_epoch))?;
        line("steps", grouped(self.total_steps))?;
        line("steps of warm-up", grouped(self.warmup_steps))?;
        line("tokens", format!("{about}{}", grouped(self.tokens)))?;
        if let Some(computed) = self.computed_tokens {
            line("of these computed", grouped(computed))?;
        }
        line("parameters", grouped(self.parameters))?;
        if self.trained_parameters < self.parameters {
            line("of these trained", grouped(self.trained_parameters))?;
        }
        line(
            "tokens of a micro-batch",
            grouped(self.split.micro_batch_tokens as u64),
        )?;
        line("computed again", self.split.recompute.to_string())?;
        if let Some(seconds) = self.seconds {
            line("time, about", duration(seconds))?;
        }
        line("disk for checkpoints", size(self.checkpoint_bytes))?;
        match self.device {
            DeviceKind::Cpu => writeln!(f, "memory")?,
            DeviceKind::Cuda => writeln!(f, "memory of the card")?,
        }
        for item in &self.memory {
            writeln!(f, "  {:<32} {:>14}", item.purpose, size(item.bytes))?;
        }
        write!(f, "  {:<32} {:>14}", "in all", size(self.memory_bytes))?;
        for (recompute, bytes) in self.memory_by_recompute {
            if recompute != self.split.recompute {
                let name = format!("in all, {recompute} again");
                write!(f, "\n  {name:<32} {:>14}", size(bytes))?;
            }
        }
        Ok(())
    }
}

/// Bytes in decimal units, as disks and cards are sold.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// A number with commas between thousands.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Seconds as a person says them.
pub fn duration(seconds: f64) -> String {
    let total = seconds.round() as u64;
    match (total / 3600, total / 60 % 60, total % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

#[cfg(test)]
mod tests;
