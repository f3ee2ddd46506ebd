//! `pacos model`.

use clap::{Args, Subcommand};

use super::{Failed, progress};
use crate::llama::{self, ModelSource};

/// Fetch and look at models.
#[derive(Args)]
pub(super) struct ModelArgs {
    #[command(subcommand)]
    command: ModelCommand,
}

#[derive(Subcommand)]
enum ModelCommand {
    /// Fetch a model, so that a run needs no network for it
    Fetch {
        /// A folder, a GGUF file, hf:OWNER/NAME, or embedded:smollm2-135m-instruct
        #[arg(default_value = "embedded:smollm2-135m-instruct")]
        source: String,
    },
    /// Read a model and say what it is
    Inspect {
        /// As for `fetch`
        source: String,
    },
}

pub(super) fn model(args: ModelArgs) -> Result<(), Failed> {
    match args.command {
        ModelCommand::Fetch { source } => {
            let source = source_of(&source)?;
            let model = source
                .fetch(&mut progress::fetching())
                .map_err(|error| Failed::Other(error.into(), 3))?;
            println!("{}", model.path.display());
        }
        ModelCommand::Inspect { source } => {
            let model = llama::open(&source_of(&source)?, &mut progress::fetching())
                .map_err(|error| Failed::Other(error.into(), 3))?;
            println!("{:#}", model.config.to_json("float32"));
            println!("parameters {}", model.config.parameter_count());
            println!("sha256     {}", model.identity);
        }
    }
    Ok(())
}

pub(super) fn source_of(text: &str) -> Result<ModelSource, Failed> {
    text.parse().map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("`{text}` names no model"));
        Failed::Other(error, 2)
    })
}
