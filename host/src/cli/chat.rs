//! `pacos chat`: a conversation with a local model, in the terminal or through pipes.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, IsTerminal, Write};

use clap::Args;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{Failed, serve::LocalModelArgs};
use crate::llama::generate::{CompletionRequest, Prompt, StreamEvent};
use crate::llama::{ChatMessage, Engine, GenerateError};

/// Talk with a model.
#[derive(Args)]
#[command(
    after_help = "/quit or the end of the input ends the conversation, /new begins another. Ctrl-C stops an answer."
)]
pub(super) struct ChatArgs {
    #[command(flatten)]
    model: LocalModelArgs,
    /// What the model is told before the conversation; its chat template may have words of its own
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Divides the logits; 0 takes the likeliest token
    #[arg(long, default_value_t = 0.7)]
    temperature: f32,
    /// Keep the likeliest tokens that together reach this probability
    #[arg(long, default_value_t = 0.95)]
    top_p: f32,
    /// Keep this many likeliest tokens
    #[arg(long, value_name = "TOKENS")]
    top_k: Option<usize>,
    /// Keep tokens at least this likely relative to the likeliest
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Makes tokens that occurred less likely; 1 does not
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Most tokens of an answer
    #[arg(long, value_name = "TOKENS")]
    max_tokens: Option<usize>,
    /// Seed of the first answer, one more for each that follows; random unless said
    #[arg(long)]
    seed: Option<u64>,
}

pub(super) async fn chat(args: ChatArgs) -> Result<(), Failed> {
    let engine = tokio::task::block_in_place(|| args.model.start(1))?;
    if !engine.tokenizer().has_chat_template() {
        let error = crate::llama::TokenizerError::NoChatTemplate;
        return Err(Failed::Other(error.into(), 3));
    }
    // Two people at two terminals, or one and a pipe: only a terminal on both sides is a dialogue.
    let is_dialogue = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut lines = lines_of_stdin();
    let beginning: Vec<ChatMessage> = args
        .system
        .iter()
        .map(|text| ChatMessage::new("system", text))
        .collect();
    let mut messages = beginning.clone();
    let mut seed = args
        .seed
        .unwrap_or_else(|| RandomState::new().build_hasher().finish());
    loop {
        if is_dialogue {
            say("> ");
        }
        let line = tokio::select! {
            line = lines.recv() => line,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(line) = line else {
            if is_dialogue {
                say("\n");
            }
            return Ok(());
        };
        match line.trim() {
            "" => continue,
            "/quit" => return Ok(()),
            "/new" => {
                messages.clone_from(&beginning);
                continue;
            }
            text => messages.push(ChatMessage::new("user", text)),
        }
        let mut request = CompletionRequest::new(Prompt::Chat(messages.clone()));
        request.temperature = args.temperature;
        request.top_p = args.top_p;
        request.top_k = args.top_k;
        request.min_p = args.min_p;
        request.repetition_penalty = args.repetition_penalty;
        request.max_tokens = args.max_tokens;
        request.seed = seed;
        seed = seed.wrapping_add(1);
        match answer(&engine, request).await {
            Ok(text) => {
                say("\n");
                messages.push(ChatMessage::new("assistant", text));
            }
            Err(error @ GenerateError::TooLong { .. }) => {
                messages.pop();
                eprintln!("error: {error}; or begin anew with /new");
            }
            Err(error) => return Err(Failed::Other(error.into(), 3)),
        }
    }
}

/// Shows an answer as it is written. Ctrl-C ends it, and what was said stays said.
async fn answer(engine: &Engine, request: CompletionRequest) -> Result<String, GenerateError> {
    let mut stream = engine.stream(request);
    let mut said = String::new();
    loop {
        let event = tokio::select! {
            event = stream.next() => event,
            _ = tokio::signal::ctrl_c() => return Ok(said),
        };
        match event {
            StreamEvent::Part(part) => {
                say(&part);
                said.push_str(&part);
            }
            StreamEvent::End(end) => return end.map(|completion| completion.text),
        }
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout();
    // Where nobody listens any more, the next line of input decides.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Lines typed or piped in. Read on a thread of its own: reading a terminal cannot be interrupted.
fn lines_of_stdin() -> UnboundedReceiver<String> {
    let (sender, receiver) = unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
