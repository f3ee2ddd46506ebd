//! The command line: parts, and what is asked of them.

use anyhow::{Context, Result, bail};
use pacos_engine::trainer::config::{DtypeSetting, MicroBatchTokens, RecomputeSetting};

use crate::shapes;

/// The options of `speed`.
pub const SPEED_USAGE: &str = "[--shape tiny|135m|1b|7b] [--dtype bf16|f32] [--micro-batch TOKENS] \
     [--recompute none|elementwise|layers] [--moments bf16|f32] [--no-prefix] [--steps N] [--seconds MOST]";

/// A part of the checks.
pub enum Part {
    /// Each operation against its twin.
    Operations,
    /// Whole optimizer steps against another implementation.
    Steps,
    /// How fast whole steps are.
    Speed(SpeedOptions),
}

/// What is asked of `speed`.
#[derive(Debug, Clone)]
pub struct SpeedOptions {
    /// One of [`shapes::NAMES`].
    pub shape: String,
    /// Number format of the arithmetic.
    pub dtype: DtypeSetting,
    /// Tokens of a micro-batch.
    pub micro_batch: MicroBatchTokens,
    /// What the backward pass computes again.
    pub recompute: RecomputeSetting,
    /// Number format of the moments.
    pub moments: DtypeSetting,
    /// Whether prompts' beginnings are computed once in a micro-batch.
    pub share_prefixes: bool,
    /// Steps that are timed; less, if time runs out.
    pub steps: usize,
    /// Most seconds for them.
    pub seconds: f64,
}

impl SpeedOptions {
    fn of(shape: &str) -> Self {
        Self {
            shape: shape.to_owned(),
            dtype: DtypeSetting::Auto,
            micro_batch: MicroBatchTokens::Auto,
            recompute: RecomputeSetting::Auto,
            moments: DtypeSetting::Auto,
            share_prefixes: true,
            steps: if shape == "tiny" { 5 } else { 50 },
            seconds: 150.0,
        }
    }
}

impl Part {
    /// Its name.
    pub fn section(&self) -> &'static str {
        match self {
            Self::Operations => "operations",
            Self::Steps => "steps",
            Self::Speed(_) => "speed",
        }
    }

    /// Name of its file of results, without the ending.
    pub fn file(&self) -> String {
        let Self::Speed(options) = self else {
            return self.section().to_owned();
        };
        let mut name = format!("speed_{}", options.shape);
        if options.dtype == DtypeSetting::F32 {
            name += "_f32";
        }
        if let MicroBatchTokens::Tokens(tokens) = options.micro_batch {
            name += &format!("_{tokens}");
        }
        if let Some(recompute) = options.recompute.given() {
            name += &format!("_{recompute:?}").to_lowercase();
        }
        if let Some(moments) = options.moments.given() {
            name += &format!("_moments_{moments:?}").to_lowercase();
        }
        if !options.share_prefixes {
            name += "_no_prefix";
        }
        name
    }
}

/// The parts of a command line; all of them where it names none.
pub fn parts(arguments: &[String]) -> Result<Vec<Part>> {
    if arguments.is_empty() {
        let shapes: &[&str] = match cfg!(feature = "cuda") {
            true => &["135m", "1b", "7b"],
            false => &["tiny"],
        };
        let speeds = shapes
            .iter()
            .map(|shape| Part::Speed(SpeedOptions::of(shape)));
        return Ok([Part::Operations, Part::Steps]
            .into_iter()
            .chain(speeds)
            .collect());
    }
    let mut parts = Vec::new();
    let mut words = arguments.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        match word {
            "operations" => parts.push(Part::Operations),
            "steps" => parts.push(Part::Steps),
            "speed" => {
                let mut options = Vec::new();
                while let Some(option) = words.next_if(|word| word.starts_with("--")) {
                    let value = match option {
                        "--no-prefix" => "",
                        _ => words
                            .next()
                            .with_context(|| format!("{option} needs a value"))?,
                    };
                    options.push((option, value));
                }
                parts.push(Part::Speed(speed_options(&options)?));
            }
            other => bail!("no part is called {other}; there are operations, steps and speed"),
        }
    }
    Ok(parts)
}

fn speed_options(given: &[(&str, &str)]) -> Result<SpeedOptions> {
    let shape = given.iter().find(|(option, _)| *option == "--shape");
    let shape = shape.map_or(
        if cfg!(feature = "cuda") { "7b" } else { "tiny" },
        |(_, v)| *v,
    );
    if shapes::named(shape).is_none() {
        bail!(
            "no shape is called {shape}; there are {}",
            shapes::NAMES.join(", ")
        );
    }
    let mut options = SpeedOptions::of(shape);
    for (option, value) in given {
        let dtype = || {
            Ok(match *value {
                "f32" => DtypeSetting::F32,
                "bf16" => DtypeSetting::Bf16,
                other => bail!("{option} is bf16 or f32, not {other}"),
            })
        };
        let number = || {
            let number = value.parse::<usize>().ok().filter(|number| *number > 0);
            number.with_context(|| format!("{option} needs a number above 0, not {value}"))
        };
        match *option {
            "--shape" => {}
            "--dtype" => options.dtype = dtype()?,
            "--moments" => options.moments = dtype()?,
            "--micro-batch" => options.micro_batch = MicroBatchTokens::Tokens(number()?),
            "--steps" => options.steps = number()?,
            "--seconds" => options.seconds = number()? as f64,
            "--no-prefix" => options.share_prefixes = false,
            "--recompute" => {
                options.recompute = match *value {
                    "none" => RecomputeSetting::None,
                    "elementwise" => RecomputeSetting::Elementwise,
                    "layers" => RecomputeSetting::Layers,
                    other => bail!("--recompute is none, elementwise or layers, not {other}"),
                }
            }
            other => bail!("speed has no option {other}; it has {SPEED_USAGE}"),
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Vec<Part>> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parts(&words)
    }

    #[test]
    fn options_belong_to_the_part_before_them() {
        let parts =
            read("operations speed --shape 7b --no-prefix --micro-batch 4096 steps").unwrap();
        let files: Vec<String> = parts.iter().map(Part::file).collect();
        assert_eq!(files, ["operations", "speed_7b_4096_no_prefix", "steps"]);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, part) in [
            ("spede", "spede"),
            ("speed --shape 13b", "13b"),
            ("speed --steps none", "none"),
            ("speed --steps", "--steps"),
            ("speed --dtype fp8", "fp8"),
            ("speed --colour red", "--colour"),
        ] {
            let error = read(line).err().unwrap().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
