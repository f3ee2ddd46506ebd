//! The matrix products of one layer of LLaMA 7B, in bf16, and what they allow a trainer at best.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::Result;
use candle_core::{Device, Tensor};
use serde_json::json;

use super::clock::Clock;
use super::{PEAK_BF16, lt, normal_bf16};
use crate::report::Report;

const HIDDEN: usize = 4096;
const INNER: usize = 11008;
const VOCABULARY: usize = 32000;
const LAYERS: f64 = 32.0;
const TOKENS: [usize; 4] = [1024, 4096, 8192, 16384];
/// Long enough for the card to reach the temperature and power at which it would train.
const SUSTAINED_SECONDS: f64 = 6.0;

/// A linear map of the model.
#[derive(Clone, Copy)]
pub struct Linear {
    pub name: &'static str,
    pub input: usize,
    pub output: usize,
}

const ATTENTION: Linear = Linear {
    name: "q, k, v or o",
    input: HIDDEN,
    output: HIDDEN,
};
const QKV: Linear = Linear {
    name: "q, k, v as one",
    input: HIDDEN,
    output: 3 * HIDDEN,
};
const GATE: Linear = Linear {
    name: "gate or up",
    input: HIDDEN,
    output: INNER,
};
const GATE_UP: Linear = Linear {
    name: "gate, up as one",
    input: HIDDEN,
    output: 2 * INNER,
};
const DOWN: Linear = Linear {
    name: "down",
    input: INNER,
    output: HIDDEN,
};
const HEAD: Linear = Linear {
    name: "head",
    input: HIDDEN,
    output: VOCABULARY,
};
const LINEARS: [Linear; 6] = [ATTENTION, QKV, GATE, GATE_UP, DOWN, HEAD];

/// Which product of a linear map.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Form {
    /// `x W^T`, the weight as `[output, input]`: what model files hold.
    Forward,
    /// `x W`, the weight as `[input, output]`.
    ForwardPlain,
    /// `dy W`, the weight as `[output, input]`.
    InputGradient,
    /// `dy^T x`.
    WeightGradient,
}

impl Form {
    pub const ALL: [Self; 4] = [
        Self::Forward,
        Self::ForwardPlain,
        Self::InputGradient,
        Self::WeightGradient,
    ];

    /// As the rows name it; `torch_peer.py` uses the same names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward NT",
            Self::ForwardPlain => "forward NN",
            Self::InputGradient => "input gradient NN",
            Self::WeightGradient => "weight gradient TN",
        }
    }
}

/// The operands of all products of one linear map.
struct Operands {
    x: Tensor,
    weight: Tensor,
    plain_weight: Tensor,
    dy: Tensor,
}

impl Operands {
    fn new(device: &Device, linear: Linear, tokens: usize) -> Result<Self> {
        let weight = normal_bf16(device, linear.output, linear.input)?;
        Ok(Self {
            x: normal_bf16(device, tokens, linear.input)?,
            plain_weight: weight.t()?.contiguous()?,
            weight,
            dy: normal_bf16(device, tokens, linear.output)?,
        })
    }

    fn product(&self, form: Form) -> candle_core::Result<Tensor> {
        match form {
            Form::Forward => self.x.matmul(&self.weight.t()?),
            Form::ForwardPlain => self.x.matmul(&self.plain_weight),
            Form::InputGradient => self.dy.matmul(&self.weight),
            Form::WeightGradient => self.dy.t()?.matmul(&self.x),
        }
    }
}

fn operations(linear: Linear, tokens: usize) -> f64 {
    2.0 * tokens as f64 * linear.input as f64 * linear.output as f64
}

fn rate(report: &mut Report, name: &str, operations: f64, seconds: f64) {
    let rate = operations / seconds;
    let details = json!({ "of_peak": rate / PEAK_BF16, "seconds": seconds });
    report.measured(name, rate / 1e12, "TFLOP/s", details);
}

/// Each product at each token count; the bounds that follow; a long run; cuBLASLt's choices.
pub fn run(device: &Device, report: &mut Report) -> Result<()> {
    let clock = Clock::new(device)?;
    for tokens in TOKENS {
        let mut seconds = HashMap::new();
        for linear in LINEARS {
            let operands = Operands::new(device, linear, tokens)?;
            for form in Form::ALL {
                let time = clock.seconds(|| Ok(operands.product(form).map(drop)?))?;
                let name = format!("{}, {}, {tokens} tokens", linear.name, form.name());
                rate(report, &name, operations(linear, tokens), time);
                seconds.insert((linear.name, form), time);
            }
        }
        upper_bounds(report, tokens, &seconds);
    }
    for tokens in [4096, 16384] {
        sustained(device, report, tokens)?;
    }
    for tokens in [4096, 16384] {
        for linear in [ATTENTION, QKV, GATE_UP, DOWN, HEAD] {
            for form in [Form::Forward, Form::InputGradient, Form::WeightGradient] {
                lt::run(device, report, &clock, linear, form, tokens)?;
            }
        }
    }
    Ok(())
}

/// Tokens a second if a step of LLaMA 7B were these products and nothing else, the head on all rows.
fn upper_bounds(report: &mut Report, tokens: usize, seconds: &HashMap<(&str, Form), f64>) {
    let at = |linear: Linear, form| seconds[&(linear.name, form)];
    for (variant, layer) in [
        (
            "separate q, k, v, gate, up",
            vec![(4.0, ATTENTION), (2.0, GATE), (1.0, DOWN)],
        ),
        (
            "q, k, v and gate, up as one",
            vec![(1.0, ATTENTION), (1.0, QKV), (1.0, GATE_UP), (1.0, DOWN)],
        ),
    ] {
        let sum = |form| {
            LAYERS
                * layer
                    .iter()
                    .map(|(count, linear)| count * at(*linear, form))
                    .sum::<f64>()
        };
        let (forward, backward) = (
            sum(Form::Forward),
            sum(Form::InputGradient) + sum(Form::WeightGradient),
        );
        let head = at(HEAD, Form::Forward)
            + at(HEAD, Form::InputGradient)
            + at(HEAD, Form::WeightGradient);
        let once = forward + backward + head;
        let layer_parameters: f64 = layer
            .iter()
            .map(|(count, linear)| count * (linear.input * linear.output) as f64)
            .sum();
        let parameters = LAYERS * layer_parameters + (HIDDEN * VOCABULARY) as f64;
        for (recompute, time) in [
            ("no recompute", once),
            ("all layers forward again", once + forward),
        ] {
            let speed = tokens as f64 / time;
            // Useful operations only: what is recomputed does not count.
            let details = json!({ "of_peak": 6.0 * parameters * speed / PEAK_BF16 });
            let name = format!("7B bound by products, {variant}, {recompute}, {tokens} tokens");
            report.measured(&name, speed, "tokens/s", details);
        }
    }
}

/// The products of a layer, forward and backward, over and over: the clock falls when the card is hot.
fn sustained(device: &Device, report: &mut Report, tokens: usize) -> Result<()> {
    let layer = [ATTENTION, QKV, GATE_UP, DOWN];
    let operands: Vec<Operands> = layer
        .iter()
        .map(|linear| Operands::new(device, *linear, tokens))
        .collect::<Result<_>>()?;
    let forms = [Form::Forward, Form::InputGradient, Form::WeightGradient];
    let once: f64 = layer
        .iter()
        .map(|linear| 3.0 * operations(*linear, tokens))
        .sum();
    device.synchronize()?;
    let (start, mut rounds) = (Instant::now(), 0);
    let mut window = (Instant::now(), 0);
    let mut last_rate = 0.0;
    while start.elapsed().as_secs_f64() < SUSTAINED_SECONDS {
        for _ in 0..4 {
            for operands in &operands {
                for form in forms {
                    operands.product(form)?;
                }
            }
        }
        // Keeps the queue short enough for the wall clock to mean something.
        device.synchronize()?;
        rounds += 4;
        if window.0.elapsed().as_secs_f64() > 1.0 {
            last_rate = once * f64::from(rounds - window.1) / window.0.elapsed().as_secs_f64();
            window = (Instant::now(), rounds);
        }
    }
    let name =
        format!("layer products for {SUSTAINED_SECONDS} s, last full second, {tokens} tokens");
    let details = json!({ "of_peak": last_rate / PEAK_BF16 });
    report.measured(&name, last_rate / 1e12, "TFLOP/s", details);
    Ok(())
}
