//! Typed reading of a manifest's tree. What is wrong is collected, never thrown, so that one pass
//! finds every problem.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use super::{
    Document, Problem, Problems, duration,
    suggest::nearest,
    tree::{Entry, Node, Place, Source, Value},
};

/// A key that a table may have, and what a user could write for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub name: &'static str,
    example: Example,
}

#[derive(Debug, Clone, Copy)]
enum Example {
    /// A TOML value.
    Value(&'static str),
    /// A sentence that follows "write".
    Sentence(&'static str),
}

/// `NAME = VALUE`.
pub(super) const fn key(name: &'static str, value: &'static str) -> Key {
    Key {
        name,
        example: Example::Value(value),
    }
}

/// A key that takes more than one line; `sentence` follows "write".
pub(super) const fn long_key(name: &'static str, sentence: &'static str) -> Key {
    Key {
        name,
        example: Example::Sentence(sentence),
    }
}

/// The document being read and what was found wrong with it so far.
pub(super) struct Reader<'d> {
    pub document: &'d Document,
    problems: RefCell<Problems>,
}

impl<'d> Reader<'d> {
    pub(super) fn new(document: &'d Document) -> Self {
        Reader {
            document,
            problems: RefCell::default(),
        }
    }

    pub(super) fn report(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    pub(super) fn report_place(&self, path: &str, place: Place, message: String, help: String) {
        let span = self.document.span(place);
        self.report(
            Problem::spanned(self.document, path.to_owned(), Some(span), message).help(help),
        );
    }

    pub(super) fn has_problems(&self) -> bool {
        !self.problems.borrow().is_empty()
    }

    pub(super) fn into_problems(self) -> Problems {
        self.problems.into_inner()
    }
}

/// A table of the manifest whose keys are known.
pub(super) struct Table<'r> {
    pub reader: &'r Reader<'r>,
    /// Dotted path; empty for the root.
    pub path: String,
    keys: &'static [Key],
    node: &'r Node,
    entries: &'r BTreeMap<String, Entry>,
}

impl<'r> Table<'r> {
    /// The manifest as a whole.
    pub(super) fn root(reader: &'r Reader<'r>, keys: &'static [Key]) -> Option<Self> {
        let node = reader.document.root();
        Some(Table {
            reader,
            path: String::new(),
            keys,
            node,
            entries: node.table()?,
        })
    }

    /// Opens a table that stands at `path`; `node` is known to be one.
    pub(super) fn open(
        reader: &'r Reader<'r>,
        path: String,
        node: &'r Node,
        keys: &'static [Key],
    ) -> Option<Self> {
        Some(Table {
            reader,
            path,
            keys,
            node,
            entries: node.table()?,
        })
    }

    /// Names every key that the table does not take.
    pub(super) fn refuse_unknown(&self) {
        self.refuse_unknown_unless(|_| None);
    }

    /// The same; `special` may know more of a key: what is wrong with it, and what to write.
    pub(super) fn refuse_unknown_unless(&self, special: impl Fn(&str) -> Option<(String, String)>) {
        let known = || self.keys.iter().map(|key| key.name);
        for (name, entry) in self.entries {
            if known().any(|known| known == name) {
                continue;
            }
            let (message, help) = special(name).unwrap_or_else(|| {
                let keys = known().collect::<Vec<_>>().join(", ");
                let title = self.title();
                let help = match nearest(name, known()) {
                    Some(meant) => format!("did you mean `{meant}`?\n{title} takes {keys}"),
                    None => format!("{title} takes {keys}"),
                };
                (format!("unknown key `{name}` in {title}"), help)
            });
            self.reader
                .report_place(&self.below(name), entry.key, message, help);
        }
    }

    /// How messages call the table.
    pub(super) fn title(&self) -> String {
        if self.path.is_empty() {
            return "the manifest".to_owned();
        }
        let is_index = |segment: &str| segment.bytes().all(|byte| byte.is_ascii_digit());
        let names: Vec<&str> = self.path.split('.').filter(|one| !is_index(one)).collect();
        if self.path.rsplit('.').next().is_some_and(is_index) {
            format!("`[[{}]]`", names.join("."))
        } else {
            format!("`[{}]`", names.join("."))
        }
    }

    /// Dotted path of a key.
    pub(super) fn below(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&'r Node> {
        self.entries.get(name).map(|entry| &entry.node)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&'r String, &'r Entry)> {
        self.entries.iter()
    }

    /// Reports a problem with the value of a key, or with the table where the key is absent.
    pub(super) fn problem(&self, name: &str, message: impl Into<String>, help: impl Into<String>) {
        self.reader
            .report(Problem::at(self.reader.document, self.below(name), message).help(help));
    }

    /// The same, with what the key could be as help.
    pub(super) fn bad_value(&self, name: &str, message: impl Into<String>) {
        self.problem(name, message, self.example(name));
    }

    /// A problem with one key that another one, not yet written, would solve.
    pub(super) fn needs(&self, name: &str, message: impl Into<String>, missing: &str) {
        self.problem(name, message, self.example(missing));
    }

    /// Reports each of the keys that is not there.
    pub(super) fn require(&self, names: &[&str]) {
        for name in names.iter().filter(|name| !self.has(name)) {
            let message = format!("{} has no `{name}`", self.title());
            let span = (!self.path.is_empty()).then(|| self.reader.document.span(self.node.place));
            let problem = Problem::spanned(self.reader.document, self.below(name), span, message);
            self.reader.report(problem.help(self.example(name)));
        }
    }

    /// "write `target = 64`", in the form of the place where the user would write it.
    pub(super) fn example(&self, name: &str) -> String {
        let key = self.keys.iter().find(|key| key.name == name);
        match key.map(|key| key.example) {
            Some(Example::Value(value)) => self.writing(name, value),
            Some(Example::Sentence(sentence)) => format!("write {sentence}"),
            None => String::new(),
        }
    }

    fn writing(&self, name: &str, value: &str) -> String {
        let set = self
            .get(name)
            .is_some_and(|node| node.place.source != Source::Text);
        if set {
            let value = if value.starts_with(['{', '[']) {
                format!("'{value}'")
            } else {
                value.trim_matches('"').to_owned()
            };
            format!("write `--set {}={value}`", self.below(name))
        } else {
            format!("write `{name} = {value}`")
        }
    }

    fn wrong_type(&self, name: &str, node: &Node, expected: &str) {
        let message = format!("`{name}` is {}, expected {expected}", node.value.kind());
        self.bad_value(name, message);
    }

    pub(super) fn string(&self, name: &str) -> Option<&'r str> {
        let node = self.get(name)?;
        match &node.value {
            Value::String(text) if text.trim().is_empty() => {
                self.bad_value(name, format!("`{name}` is empty"));
                None
            }
            Value::String(text) => Some(text),
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Date(_) => {
                let message = format!("`{name}` is {}, expected a string", node.value.kind());
                let quoted = format!("\"{}\"", node.value.shown());
                let help = if node.place.source == Source::Text {
                    format!("write `{name} = {quoted}`, in quotes")
                } else {
                    format!("write `--set '{}={quoted}'`, in quotes", self.below(name))
                };
                self.problem(name, message, help);
                None
            }
            _ => {
                self.wrong_type(name, node, "a string");
                None
            }
        }
    }

    pub(super) fn boolean(&self, name: &str) -> Option<bool> {
        let node = self.get(name)?;
        match &node.value {
            Value::Boolean(flag) => Some(*flag),
            Value::String(text) if ["true", "false"].contains(&text.as_str()) => {
                self.quoted(name, "a boolean", text);
                None
            }
            _ => {
                self.wrong_type(name, node, "a boolean");
                None
            }
        }
    }

    /// A whole number from `least` to `most`.
    pub(super) fn whole(&self, name: &str, least: u64, most: u64) -> Option<u64> {
        let node = self.get(name)?;
        match &node.value {
            Value::Integer(number) => match u64::try_from(*number) {
                Ok(number) if (least..=most).contains(&number) => Some(number),
                Ok(number) if number > most => {
                    self.bad_value(
                        name,
                        format!("`{name}` is {number}, expected at most {most}"),
                    );
                    None
                }
                _ => {
                    let message = format!("`{name}` is {number}, expected at least {least}");
                    self.bad_value(name, message);
                    None
                }
            },
            Value::String(text) if text.parse::<i64>().is_ok() => {
                self.quoted(name, "a whole number", text);
                None
            }
            Value::Float(number) if number.fract() == 0.0 && number.abs() < 1e15 => {
                let message = format!("`{name}` is a float, expected a whole number");
                self.problem(name, message, self.writing(name, &format!("{number:.0}")));
                None
            }
            _ => {
                self.wrong_type(name, node, "a whole number");
                None
            }
        }
    }

    /// A whole number from `least` on that fits in 32 bits.
    pub(super) fn whole32(&self, name: &str, least: u64) -> Option<u32> {
        let number = self.whole(name, least, u32::MAX.into())?;
        u32::try_from(number).ok()
    }

    /// A finite number above zero, or from zero on.
    pub(super) fn number(&self, name: &str, zero: Zero) -> Option<f64> {
        let node = self.get(name)?;
        #[expect(
            clippy::cast_precision_loss,
            reason = "an integer beyond 2^53 makes no sense for any key that takes a float"
        )]
        let number = match &node.value {
            Value::Integer(number) => *number as f64,
            Value::Float(number) => *number,
            Value::String(text) if text.parse::<f64>().is_ok() => {
                self.quoted(name, "a number", text);
                return None;
            }
            _ => {
                self.wrong_type(name, node, "a number");
                return None;
            }
        };
        let (fits, expected) = match zero {
            Zero::Allowed => (number >= 0.0, "zero or a positive number"),
            Zero::Refused => (number > 0.0, "a positive number"),
        };
        if fits && number.is_finite() {
            return Some(number);
        }
        let shown = node.value.shown().replace("NaN", "nan");
        self.bad_value(name, format!("`{name}` is {shown}, expected {expected}"));
        None
    }

    /// A positive length of time: `"90s"`, `"2m"`, `"1h"`, `"500ms"`.
    pub(super) fn duration(&self, name: &str) -> Option<Duration> {
        let node = self.get(name)?;
        let expected = "a length of time such as \"90s\", \"2m\" or \"1h\"";
        match &node.value {
            Value::String(text) => match duration::parse(text) {
                Some(Duration::ZERO) => {
                    self.bad_value(
                        name,
                        format!("`{name}` is {text:?}, expected more than zero"),
                    );
                    None
                }
                Some(duration) => Some(duration),
                None => {
                    self.bad_value(name, format!("`{name}` is {text:?}, expected {expected}"));
                    None
                }
            },
            Value::Integer(number) if *number > 0 => {
                let message = format!("`{name}` is an integer, expected {expected}");
                let seconds = self.writing(name, &format!("\"{number}s\""));
                self.problem(name, message, format!("{seconds} for seconds"));
                None
            }
            _ => {
                self.wrong_type(name, node, expected);
                None
            }
        }
    }

    /// An array of strings, each with its path.
    pub(super) fn strings(&self, name: &str) -> Vec<(String, &'r str)> {
        let Some(node) = self.get(name) else {
            return Vec::new();
        };
        let Value::Array(items) = &node.value else {
            let help = match &node.value {
                Value::String(text) => self.writing(name, &format!("[{text:?}]")),
                _ => self.example(name),
            };
            let found = node.value.kind();
            self.problem(
                name,
                format!("`{name}` is {found}, expected an array of strings"),
                help,
            );
            return Vec::new();
        };
        let mut strings = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{name}.{index}");
            match &item.value {
                Value::String(text) => strings.push((path, text.as_str())),
                other => {
                    let message = format!("`{name}` holds {}, expected strings only", other.kind());
                    self.problem(&path, message, self.example(name));
                }
            }
        }
        strings
    }

    /// A table below this one, its unknown keys not yet looked at.
    pub(super) fn table(&self, name: &str, keys: &'static [Key]) -> Option<Table<'r>> {
        let node = self.table_node(name)?;
        Table::open(self.reader, self.below(name), node, keys)
    }

    /// A table whose keys belong to somebody else, as JSON.
    pub(super) fn json(&self, name: &str) -> Option<serde_json::Value> {
        let node = self.table_node(name)?;
        let mut unfit = Vec::new();
        let value = node.to_json(&mut unfit);
        for place in unfit {
            self.reader.report_place(
                &self.below(name),
                place,
                format!("a number in {} is not finite", self.title_below(name)),
                "write an ordinary number; `nan` and `inf` mean nothing here".to_owned(),
            );
        }
        Some(value)
    }

    fn title_below(&self, name: &str) -> String {
        Table {
            path: self.below(name),
            ..*self
        }
        .title()
    }

    fn table_node(&self, name: &str) -> Option<&'r Node> {
        let node = self.get(name)?;
        match &node.value {
            Value::Table(_) => Some(node),
            Value::Array(items) if items.iter().all(|item| item.table().is_some()) => {
                let place = items.first().map_or(node.place, |item| item.place);
                self.reader.report_place(
                    &self.below(name),
                    place,
                    format!("`{name}` is an array of tables, expected one table"),
                    format!("write `[{}]`, in single brackets", self.below(name)),
                );
                None
            }
            _ => {
                self.wrong_type(name, node, "a table");
                None
            }
        }
    }

    /// The tables of `[[NAME]]`, in order.
    pub(super) fn tables(&self, name: &str, keys: &'static [Key]) -> Vec<Table<'r>> {
        let Some(node) = self.get(name) else {
            return Vec::new();
        };
        let Value::Array(items) = &node.value else {
            let help = match &node.value {
                Value::Table(_) => format!("write `[[{name}]]`, in double brackets"),
                _ => self.example(name),
            };
            let found = node.value.kind();
            let expected = "an array of tables";
            self.problem(
                name,
                format!("`{name}` is {found}, expected {expected}"),
                help,
            );
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = self.below(&format!("{name}.{index}"));
            match Table::open(self.reader, path, item, keys) {
                Some(table) => tables.push(table),
                None => {
                    let found = item.value.kind();
                    let message = format!("`{name}` holds {found}, expected tables only");
                    self.problem(&format!("{name}.{index}"), message, self.example(name));
                }
            }
        }
        tables
    }

    fn quoted(&self, name: &str, expected: &str, text: &str) {
        let message = format!("`{name}` is a string, expected {expected}");
        let help = format!("{}, without quotes", self.writing(name, text));
        self.problem(name, message, help);
    }
}

/// Whether a number may be zero.
#[derive(Debug, Clone, Copy)]
pub(super) enum Zero {
    Allowed,
    Refused,
}
