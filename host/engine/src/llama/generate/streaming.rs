//! A completion in parts, as they are written.

use std::future::Future;
use std::pin::Pin;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::engine::Engine;
use super::request::{Completion, CompletionRequest, GenerateError};

type End = Result<Completion, GenerateError>;

/// A completion being written. Dropping it cancels the request.
pub struct CompletionStream {
    completing: Pin<Box<dyn Future<Output = End> + Send>>,
    parts: UnboundedReceiver<String>,
    end: Option<End>,
}

/// What comes of a completion.
#[derive(Debug)]
pub enum StreamEvent {
    /// More of the text, never cut inside a character; no part of a stop text.
    Part(String),
    /// The completion, whose text is that of the parts together, or why there is none.
    End(Box<End>),
}

impl Engine {
    /// Completes a prompt as [`Engine::complete`] does, in parts.
    pub fn stream(&self, request: CompletionRequest) -> CompletionStream {
        let (sender, parts) = unbounded_channel();
        let engine = self.clone();
        CompletionStream {
            completing: Box::pin(async move { engine.complete_to(request, Some(sender)).await }),
            parts,
            end: None,
        }
    }
}

impl CompletionStream {
    /// The next part; after the last one the end, which comes once.
    ///
    /// # Panics
    /// If the end has come already.
    pub async fn next(&mut self) -> StreamEvent {
        if self.end.is_none() {
            tokio::select! {
                biased;
                Some(part) = self.parts.recv() => return StreamEvent::Part(part),
                end = &mut self.completing => self.end = Some(end),
            }
        }
        // The last parts may have come after the receiver was looked at and before the end was.
        match self.parts.try_recv() {
            Ok(part) => StreamEvent::Part(part),
            Err(_) => {
                let end = self.end.take().expect("an end that has not been told");
                StreamEvent::End(Box::new(end))
            }
        }
    }
}
