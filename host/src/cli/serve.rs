//! `pacos serve` and what it has in common with `pacos chat`: a model made ready to answer.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use clap::Args;

use super::{Failed, model::source_of, progress};
use crate::download;
use crate::llama::{Engine, EngineOptions, InferenceModel};
use crate::serve::Server;

/// A model, and what it may use.
#[derive(Args)]
pub(super) struct LocalModelArgs {
    /// A folder, a GGUF file, hf:OWNER/NAME, or embedded:smollm2-135m-instruct
    pub(super) model: String,
    /// Longest conversation, in tokens; the model's own limit if smaller
    #[arg(long, value_name = "TOKENS")]
    context_length: Option<usize>,
    /// Threads; one a processor unless said otherwise
    #[arg(long)]
    threads: Option<usize>,
    /// Fetch nothing: a model that is not on this machine is an error
    #[arg(long)]
    offline: bool,
}

impl LocalModelArgs {
    /// Fetches, reads and starts the model. Blocks.
    pub(super) fn start(&self, max_batch: usize) -> Result<Engine, Failed> {
        if self.offline {
            download::forbid();
        }
        let refused = |error: anyhow::Error| Failed::Other(error, 3);
        let mut telling = progress::fetching();
        let local = source_of(&self.model)?
            .fetch(&mut telling)
            .map_err(|error| refused(error.into()))?;
        let model =
            InferenceModel::open(&local, &mut telling).map_err(|error| refused(error.into()))?;
        let options = EngineOptions {
            max_batch,
            context_length: self.context_length,
            threads: self.threads,
            ..EngineOptions::default()
        };
        Engine::start(model, options).map_err(|error| refused(error.into()))
    }
}

/// Serve a model to programs that speak OpenAI's API.
#[derive(Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    model: LocalModelArgs,
    /// Address to listen at; anyone who reaches it can ask the model
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port; 0 takes any free one
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Name under which the model is served; MODEL as written unless said otherwise
    #[arg(long)]
    name: Option<String>,
    /// Requests decoded at once; others wait
    #[arg(long, value_name = "REQUESTS", default_value_t = 32)]
    max_batch: usize,
}

pub(super) async fn serve(args: ServeArgs) -> Result<(), Failed> {
    let engine = tokio::task::block_in_place(|| args.model.start(args.max_batch))?;
    let name = args.name.as_deref().unwrap_or(&args.model.model);
    let asked = SocketAddr::new(args.host, args.port);
    let server = Server::bind(asked, name, engine).await;
    let server = server.map_err(|error| {
        let message = format!("cannot listen at {asked}: {error}; choose another with --port");
        Failed::Other(anyhow::anyhow!(message), 5)
    })?;
    let address = server.address().unwrap_or(asked);
    println!("{name} at http://{address}/v1 (Ctrl-C stops it)");
    // A program that started this one reads the address from a pipe.
    let _ = std::io::stdout().flush();
    tokio::select! {
        () = server.run() => {}
        () = asked_to_stop() => {}
    }
    Ok(())
}

/// Ctrl-C, or the signal by which services are stopped.
async fn asked_to_stop() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
