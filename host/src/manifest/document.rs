//! The text that a recipe was read from, and where in it each value stands.

use std::{path::PathBuf, sync::Arc};

use serde::Serialize;

use super::{
    secrets::Secret,
    tree::{Node, Place, Source},
};

/// A manifest's text with the overrides of the command line, kept so that a message can point at
/// a line. Anything that looks like a key to a service is blanked out.
#[derive(Debug, Clone)]
pub struct Document {
    name: String,
    folder: PathBuf,
    text: Arc<str>,
    overrides: Arc<[String]>,
    root: Arc<Node>,
}

/// Where a value is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Span {
    /// Which override holds it, counted from 0; absent where the file does.
    #[serde(rename = "override", skip_serializing_if = "Option::is_none")]
    pub override_index: Option<usize>,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Line of `start`, counted from 1.
    pub line: usize,
    /// Character of `start` in its line, counted from 1.
    pub column: usize,
}

impl Document {
    pub(super) fn new(
        name: String,
        folder: PathBuf,
        text: &str,
        overrides: &[String],
        root: Node,
        secrets: &[Secret],
    ) -> Self {
        let blanked = |text: &str, source| {
            let mut text = text.to_owned();
            for secret in secrets
                .iter()
                .filter(|secret| secret.place.source == source)
            {
                blank(&mut text, secret.place.start..secret.place.end);
            }
            text
        };
        Document {
            name,
            folder,
            text: blanked(text, Source::Text).into(),
            overrides: overrides
                .iter()
                .enumerate()
                .map(|(index, text)| blanked(text, Source::Override(index)))
                .collect(),
            root: Arc::new(root),
        }
    }

    /// The file as messages name it: the path that was asked for.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder that paths in the manifest are relative to.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// The file's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The overrides, `KEY=VALUE` each, as they were given.
    pub fn overrides(&self) -> &[String] {
        &self.overrides
    }

    /// Where the value at a dotted path is written: `generator.config.mode`, `filters.0.plugin`.
    /// A table is found at its header. `None` for what is not written, such as a default.
    pub fn locate(&self, path: &str) -> Option<Span> {
        let found = self.root.find(path).filter(|_| !path.is_empty())?;
        Some(self.span(found.node.place))
    }

    /// Where the key at a dotted path is written; elements of arrays have none.
    pub fn locate_key(&self, path: &str) -> Option<Span> {
        self.root.find(path)?.key.map(|place| self.span(place))
    }

    pub(super) fn root(&self) -> &Node {
        &self.root
    }

    pub(super) fn span(&self, place: Place) -> Span {
        let text = self.source(place.source);
        let start = floor_char_boundary(text, place.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        Span {
            override_index: match place.source {
                Source::Text => None,
                Source::Override(index) => Some(index),
            },
            start,
            end: floor_char_boundary(text, place.end).max(start),
            line: 1 + text[..start].matches('\n').count(),
            column: 1 + text[line_start..start].chars().count(),
        }
    }

    /// The line that a span begins on, and the bytes of that line that it covers.
    pub(super) fn excerpt(&self, span: &Span) -> (String, std::ops::Range<usize>) {
        let text = self.source(match span.override_index {
            None => Source::Text,
            Some(index) => Source::Override(index),
        });
        let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
        let line = text[start..].lines().next().unwrap_or_default();
        let from = (span.start - start).min(line.len());
        let to = (span.end - start).min(line.len());
        (line.to_owned(), from..to)
    }

    fn source(&self, source: Source) -> &str {
        match source {
            Source::Text => &self.text,
            Source::Override(index) => &self.overrides[index],
        }
    }
}

/// Puts stars in place of a stretch of text, keeping its length, so that places stay true.
fn blank(text: &mut String, range: std::ops::Range<usize>) {
    let range = floor_char_boundary(text, range.start)..floor_char_boundary(text, range.end);
    let stars = "*".repeat(range.len());
    text.replace_range(range, &stars);
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
