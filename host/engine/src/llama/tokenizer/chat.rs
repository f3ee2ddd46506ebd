//! Chat templates: the Jinja programs that models carry, run by minijinja as transformers runs them.

use std::borrow::Cow;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, context};

use super::{Tokenizer, TokenizerError};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ChatMessage {
    /// "system", "user" or "assistant".
    pub role: String,
    /// The text.
    pub content: String,
}

impl ChatMessage {
    /// A message of a role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

pub(super) fn render(
    tokenizer: &Tokenizer,
    template: &str,
    messages: &[ChatMessage],
    add_generation_prompt: bool,
) -> Result<String, TokenizerError> {
    let failed = |e: Error| TokenizerError::ChatTemplate(sentence(&e));
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .map_err(failed)?;
    let mut environment = Environment::new();
    environment.set_syntax(syntax);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |text: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, text))
    });
    let messages: Vec<Value> = messages
        .iter()
        .map(|m| context! { role => m.role.as_str(), content => m.content.as_str() })
        .collect();
    let token = |name: &str| tokenizer.special_token(name).unwrap_or_default().to_owned();
    environment
        .template_from_str(&without_generation_tags(template))
        .and_then(|template| {
            template.render(context! {
                messages,
                add_generation_prompt,
                tools => (),
                documents => (),
                bos_token => token("bos_token"),
                eos_token => token("eos_token"),
                unk_token => token("unk_token"),
                pad_token => token("pad_token"),
            })
        })
        .map_err(failed)
}

/// transformers' own tag `generation` marks the assistant's words for masks of training labels; to the text
/// it is a block with a scope of its own, as Jinja's `with` is.
///
/// Reference: <https://huggingface.co/docs/transformers/chat_templating_writing>.
fn without_generation_tags(template: &str) -> Cow<'_, str> {
    const TAGS: [(&str, &str); 2] = [("generation", "with"), ("endgeneration", "endwith")];
    if !template.contains("endgeneration") {
        return Cow::Borrowed(template);
    }
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        out.push_str(before);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let written = &tag[..end];
        let word = written.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        if let Some((_, meant)) = TAGS.iter().find(|(name, _)| *name == word) {
            out.push_str(&written.replace(word, meant));
            rest = &tag[end..];
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// transformers replaces Jinja's `tojson`, which escapes for HTML, by plain JSON; so does this.
fn to_json(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let bad = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let text = match indent {
        None => python_json(&serde_json::to_value(&value).map_err(bad)?),
        Some(width) => {
            let indent = vec![b' '; width];
            let mut out = Vec::new();
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&indent);
            let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
            serde::Serialize::serialize(&value, &mut serializer).map_err(bad)?;
            String::from_utf8_lossy(&out).into_owned()
        }
    };
    Ok(Value::from_safe_string(text))
}

/// Python's `json.dumps` puts a space after commas and colons.
fn python_json(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Array(items) => {
            let items: Vec<String> = items.iter().map(python_json).collect();
            format!("[{}]", items.join(", "))
        }
        serde_json::Value::Object(map) => {
            let entries: Vec<String> = map
                .iter()
                .map(|(k, v)| format!("{}: {}", serde_json::json!(k), python_json(v)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        plain => plain.to_string(),
    }
}

fn sentence(error: &Error) -> String {
    match (error.detail(), error.line()) {
        (Some(detail), Some(line)) => format!("{detail} (line {line} of the template)"),
        _ => error.to_string(),
    }
}
