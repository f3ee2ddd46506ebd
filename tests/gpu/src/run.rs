//! Optimizer steps as the trainer makes them, without its checkpoints: those of a 7B model would take
//! longer than all that is measured.

use std::time::Instant;

use anyhow::{Result, ensure};
use candle_core::{DType, Tensor};
use pacos_engine::llama::{LlamaConfig, Weights};
use pacos_engine::trainer::adamw::{AdamW, AdamWConstants};
use pacos_engine::trainer::batches::pack;
use pacos_engine::trainer::engine::{Capacity, Engine};
use pacos_engine::trainer::formats::Formats;
use pacos_engine::trainer::operations::Operations;
use pacos_engine::trainer::parameters::{Layout, NumberFormat, ParameterSet};
use pacos_engine::trainer::prefixes::SharedPrefixes;
use pacos_engine::trainer::student::Student;
use pacos_engine::trainer::{ComputeDevice, Row, Split, TrainConfig};

/// What a run is made of.
pub struct Setup<'a> {
    /// The model.
    pub model: &'a LlamaConfig,
    /// Settings; of these the dtype, the learning rate, clipping and Adam's constants.
    pub config: &'a TrainConfig,
    /// What it runs on.
    pub device: &'a ComputeDevice,
    /// Micro-batches, recompute, moments.
    pub split: Split,
    /// All rows; their common beginnings are shared if the settings say so.
    pub rows: &'a [Row],
}

/// Numbers of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Mean loss over the labels, in nats.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// From its beginning until the host knows the loss.
    pub seconds: f64,
    /// Tokens of its rows.
    pub tokens: usize,
    /// Tokens that went through the model.
    pub computed: usize,
}

/// A model in training.
pub struct Run<'a> {
    setup: Setup<'a>,
    prefixes: SharedPrefixes,
    engine: Engine,
    student: Student,
    gradients: ParameterSet,
    adamw: AdamW,
}

impl<'a> Run<'a> {
    /// Makes everything that a step needs. `weights` of nothing are made by the device.
    pub fn new(
        setup: Setup<'a>,
        operations: Box<dyn Operations>,
        weights: Option<Weights>,
    ) -> Result<Self> {
        let Setup {
            model,
            config,
            device,
            split,
            rows,
        } = setup;
        let handle = &device.handle;
        let formats = Formats::of(device.kind, config.dtype.on(device.kind), split.moments);
        let base = match weights {
            Some(weights) => ParameterSet::from_weights(model, weights, formats.trained, handle)?,
            None => normal_weights(model, formats.trained, device)?,
        };
        let student = Student::full(base);
        let capacity = Capacity {
            tokens: split.micro_batch_tokens,
            recompute: split.recompute,
            lora_rank: 0,
            dropout_width: 0,
            label_rows: formats.label_rows,
            activations: formats.activations,
        };
        Ok(Self {
            prefixes: match config.share_prefixes {
                true => SharedPrefixes::of(rows),
                false => SharedPrefixes::none(),
            },
            gradients: student.trained().zeros_in(formats.gradients)?,
            adamw: AdamW::new(
                AdamWConstants::from(config),
                student.trained(),
                formats.moments,
            )?,
            engine: Engine::new(model, operations, capacity, handle)?,
            student,
            setup,
        })
    }

    /// One step over some of the rows. The device is waited for once, at its end, as in training.
    pub fn step(&mut self, members: &[usize]) -> Result<Step> {
        let began = Instant::now();
        let Setup {
            config,
            device,
            split,
            rows,
            ..
        } = self.setup;
        let handle = &device.handle;
        let batches = pack(rows, members, split.micro_batch_tokens, &self.prefixes);
        let labels: usize = members.iter().map(|&row| rows[row].label_tokens()).sum();
        let losses = Tensor::zeros(batches.len(), DType::F64, handle)?;
        let squares = Tensor::zeros(1, DType::F64, handle)?;
        let factor = Tensor::zeros(1, DType::F32, handle)?;
        let operations = self.engine.operations();
        operations.zero(self.gradients.data())?;
        for (index, batch) in batches.iter().enumerate() {
            self.engine.accumulate_gradients(
                &self.student,
                batch,
                1.0 / labels as f32,
                None,
                &mut self.gradients,
                &losses.narrow(0, index, 1)?,
            )?;
        }
        operations.add_sum_of_squares(&squares, self.gradients.data())?;
        operations.clip_factor(&factor, &squares, config.max_grad_norm)?;
        self.adamw.update(
            operations,
            self.student.trained_mut(),
            &self.gradients,
            config.learning_rate,
            &factor,
        )?;
        let loss = losses.to_vec1::<f64>()?.iter().sum::<f64>() / labels as f64;
        let grad_norm = squares.to_vec1::<f64>()?[0].sqrt();
        ensure!(
            loss.is_finite() && grad_norm.is_finite(),
            "the loss of a step is {loss}, the norm of its gradient {grad_norm}: neither its results nor its \
             speed mean anything"
        );
        Ok(Step {
            loss,
            grad_norm,
            seconds: began.elapsed().as_secs_f64(),
            tokens: members.iter().map(|&row| rows[row].input_ids.len()).sum(),
            computed: batches.iter().map(|batch| batch.input_ids.len()).sum(),
        })
    }

    /// All weights in f32.
    pub fn weights(&self) -> Result<Vec<f32>> {
        let trained = self.student.trained();
        Ok(trained.read(0..trained.count())?)
    }
}

/// Normal numbers as [`Weights::random`] has them, but made by the device: the host would take minutes
/// for those of a 7B model. Halves that bf16 lacks are zeros.
fn normal_weights(
    model: &LlamaConfig,
    format: NumberFormat,
    device: &ComputeDevice,
) -> Result<ParameterSet> {
    /// Small, because what is freed of it stays with the driver's pool.
    const AT_ONCE: usize = 1 << 22;
    let set = ParameterSet::zeros(&Layout::of_model(model), format, &device.handle)?;
    for spec in set.specs() {
        for start in spec.range.clone().step_by(AT_ONCE) {
            let count = AT_ONCE.min(spec.range.end - start);
            let values = match spec.shape.len() {
                1 => Tensor::ones(count, DType::F32, &device.handle)?,
                _ => Tensor::randn(0_f32, 0.02, count, &device.handle)?,
            };
            let values = values.to_dtype(format.dtype())?;
            set.data().slice_set(&values, 0, start)?;
        }
    }
    Ok(set)
}
