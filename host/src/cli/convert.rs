//! `pacos convert`.

use std::path::PathBuf;

use anyhow::anyhow;
use candle_core::DType;
use clap::Args;

use super::{Failed, model::source_of, progress};
use crate::llama::convert::{ConvertError, GgufType, to_folder, to_gguf};

/// Element types of folders.
const FOLDER_TYPES: [(&str, DType); 3] = [
    ("f32", DType::F32),
    ("f16", DType::F16),
    ("bf16", DType::BF16),
];

/// Write a model in another form, for other programs
///
/// A name that ends in .gguf becomes a GGUF file, for llama.cpp and what is built on it; any other a
/// Hugging Face folder, for transformers. Tokenizer and chat template go along. A trained
/// student carries Alpaca's prompt as its chat template.
#[derive(Args)]
pub(super) struct ConvertArgs {
    /// A folder such as RUN/model, a GGUF file, hf:OWNER/NAME, or embedded:smollm2-135m-instruct
    model: String,
    /// FILE.gguf, or a folder that does not exist
    out: PathBuf,
    /// How the weights are stored: f32, f16, bf16; in GGUF files also q8_0 and q4_k_m. Without it
    /// f16 in GGUF files and bf16 in folders
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Write over what is there
    #[arg(long)]
    force: bool,
}

pub(super) fn convert(args: ConvertArgs) -> Result<(), Failed> {
    let usage = |message: String| Failed::Other(anyhow!(message), 2);
    let out = args.out.as_path();
    let is_gguf = out.extension().is_some_and(|end| end == "gguf");
    if out.exists() && !args.force {
        return Err(usage(format!(
            "{} is there already, and nothing is overwritten: choose another name, or write --force",
            out.display()
        )));
    }
    let unknown = |kind: &str, names: Vec<&str>| {
        let what = if is_gguf { "a GGUF file" } else { "a folder" };
        usage(format!(
            "there is no type `{kind}` for {what}: expected one of {}",
            names.join(", ")
        ))
    };
    let source = source_of(&args.model)?;
    let told = &mut progress::fetching();
    let there = |error: crate::llama::SourceError| Failed::Other(error.into(), 3);
    let failed = |error: ConvertError| {
        let code = match error {
            ConvertError::Write { .. } => 5,
            _ => 3,
        };
        Failed::Other(error.into(), code)
    };
    if is_gguf {
        let kind = args.kind.as_deref().unwrap_or("f16");
        let named = GgufType::NAMES.iter().find(|(name, _)| *name == kind);
        let Some((_, kind)) = named else {
            return Err(unknown(kind, GgufType::NAMES.map(|(name, _)| name).into()));
        };
        let model = source.fetch(told).map_err(there)?;
        to_gguf(&model, out, *kind, told).map_err(failed)?;
    } else {
        let kind = args.kind.as_deref().unwrap_or("bf16");
        let named = FOLDER_TYPES.iter().find(|(name, _)| *name == kind);
        let Some((_, dtype)) = named else {
            return Err(unknown(kind, FOLDER_TYPES.map(|(name, _)| name).into()));
        };
        let model = source.fetch(told).map_err(there)?;
        to_folder(&model, out, *dtype).map_err(failed)?;
    }
    println!("{}", out.display());
    Ok(())
}
