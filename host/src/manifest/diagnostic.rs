//! What is wrong with a manifest, for people and for programs.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
};

use pacos_plugin::Diagnostic;
use serde::Serialize;

use super::{Document, Span, render};

/// One thing that is wrong, with its place and what to write instead.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Problem {
    /// The file, as the user named it.
    pub file: String,
    /// The override that holds it, `KEY=VALUE`; absent where the file does.
    #[serde(rename = "override", skip_serializing_if = "Option::is_none")]
    pub override_text: Option<String>,
    /// Dotted path of the value; empty for the file as a whole.
    pub path: String,
    /// Where it is written; absent where nothing is.
    pub span: Option<Span>,
    /// Whether the run can start all the same.
    pub severity: Severity,
    /// What is wrong: what was expected and what was found.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
    #[serde(skip)]
    pub(super) excerpt: Option<Excerpt>,
}

/// Whether a problem stops the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Nothing is started.
    Error,
    /// The user should know, and may leave it as it is.
    Warning,
}

/// The line of a problem, and the bytes of it that are meant.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Excerpt {
    pub line: String,
    pub marked: std::ops::Range<usize>,
}

impl Problem {
    /// A problem with the value at a dotted path; with the table that should hold it where the
    /// manifest does not write it.
    pub fn at(document: &Document, path: impl Into<String>, message: impl Into<String>) -> Self {
        let path = path.into();
        let mut written = path.as_str();
        let span = loop {
            if let Some(span) = document.locate(written) {
                break Some(span);
            }
            match written.rfind('.') {
                Some(dot) => written = &written[..dot],
                None => break None,
            }
        };
        Problem::spanned(document, path, span, message)
    }

    /// A problem with a key rather than with its value.
    pub fn at_key(
        document: &Document,
        path: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        let path = path.into();
        match document.locate_key(&path) {
            Some(span) => Problem::spanned(document, path, Some(span), message),
            None => Problem::at(document, path, message),
        }
    }

    /// A problem with a file that no document was made of.
    pub fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Problem {
            file: file.into(),
            override_text: None,
            path: String::new(),
            span: None,
            severity: Severity::Error,
            message: message.into(),
            help: None,
            excerpt: None,
        }
    }

    /// What a part says of its own table, which stands at `table` in the manifest. Elements of
    /// arrays may be written `pairs[1]` or `pairs.1`.
    pub fn from_diagnostic(document: &Document, table: &str, diagnostic: &Diagnostic) -> Self {
        let below = diagnostic.path.replace('[', ".").replace(']', "");
        let path = match below.as_str() {
            "" => table.to_owned(),
            below => format!("{table}.{below}"),
        };
        // A part need not repeat the key in its sentence, but a reader must see it there.
        let key = diagnostic.path.rsplit('.').next().unwrap_or_default();
        let message = match diagnostic.message.contains(key) {
            true => diagnostic.message.clone(),
            false => format!("`{key}`: {}", diagnostic.message),
        };
        let is_about_key = ["unknown key", "unknown field"]
            .iter()
            .any(|words| diagnostic.message.starts_with(words));
        let mut problem = match is_about_key {
            true => Problem::at_key(document, path, message),
            false => Problem::at(document, path, message),
        };
        problem.severity = match diagnostic.severity {
            pacos_plugin::Severity::Error => Severity::Error,
            pacos_plugin::Severity::Warning => Severity::Warning,
        };
        problem.help.clone_from(&diagnostic.help);
        problem
    }

    pub(super) fn spanned(
        document: &Document,
        path: String,
        span: Option<Span>,
        message: impl Into<String>,
    ) -> Self {
        let excerpt = span.as_ref().map(|span| {
            let (line, marked) = document.excerpt(span);
            Excerpt { line, marked }
        });
        let override_index = span.as_ref().and_then(|span| span.override_index);
        Problem {
            override_text: override_index.map(|index| document.overrides()[index].clone()),
            path,
            span,
            excerpt,
            ..Problem::of_file(document.name(), message)
        }
    }

    /// What to write instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Says that the run can start all the same.
    #[must_use]
    pub fn warning(mut self) -> Self {
        self.severity = Severity::Warning;
        self
    }

    /// The order of the text; what has no place comes first, overrides last.
    fn order(&self) -> (usize, usize) {
        self.span.as_ref().map_or((0, 0), |span| {
            (span.override_index.map_or(0, |index| index + 1), span.start)
        })
    }
}

/// Everything that is wrong with a manifest, in the order of its text. [`fmt::Display`] gives the
/// text for people, without colour; `serde` an array.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// None yet.
    pub fn new() -> Self {
        Problems::default()
    }

    /// Adds one, in its place.
    pub fn push(&mut self, problem: Problem) {
        let at = self
            .0
            .partition_point(|earlier| earlier.order() <= problem.order());
        self.0.insert(at, problem);
    }

    /// Whether there are none, not even warnings.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the run must not start.
    pub fn has_errors(&self) -> bool {
        self.0
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }

    /// In the order of the text.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// `Err` if the run must not start. Warnings alone are dropped: print them first.
    ///
    /// # Errors
    /// All problems, warnings among them.
    pub fn into_result(self) -> Result<(), Problems> {
        if self.has_errors() { Err(self) } else { Ok(()) }
    }

    /// The text for people, with colour if asked for.
    pub fn render(&self, colour: bool) -> String {
        render::problems(&self.0, colour)
    }

    /// Prints the text for people to standard error, with colour where a terminal shows it.
    ///
    /// # Errors
    /// Those of writing.
    pub fn eprint(&self) -> io::Result<()> {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let stderr = io::stderr();
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = stderr.is_terminal() && !dumb && !set("NO_COLOR");
        writeln!(stderr.lock(), "{}", self.render(colour))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Problems {}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Problems(vec![problem])
    }
}

impl Extend<Problem> for Problems {
    fn extend<I: IntoIterator<Item = Problem>>(&mut self, problems: I) {
        for problem in problems {
            self.push(problem);
        }
    }
}

impl FromIterator<Problem> for Problems {
    fn from_iter<I: IntoIterator<Item = Problem>>(problems: I) -> Self {
        let mut all = Problems::new();
        all.extend(problems);
        all
    }
}

impl IntoIterator for Problems {
    type Item = Problem;
    type IntoIter = std::vec::IntoIter<Problem>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
