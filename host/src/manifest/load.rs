//! From a file to a document, and on to a checked recipe.

use std::path::{Path, PathBuf};

use pacos_plugin::Diagnostic;
use toml::de::DeTable;

use super::{
    Document, Plugin, Problem, Problems, Recipe, overrides, parse, secrets,
    secrets::Secret,
    suggest::nearest,
    tree::{Node, Origin, Place, Source, Value, table_from_toml},
};

/// Looks at a table and says what is wrong with it; paths are relative to the table.
pub type TableCheck<'a> = &'a dyn Fn(&serde_json::Value) -> Vec<Diagnostic>;

/// Has a plugin of the recipe look at its configuration.
pub type PluginCheck<'a> = &'a dyn Fn(&Plugin) -> Vec<Diagnostic>;

/// Checks of tables that other parts own, made together with the manifest's own, so that a user
/// sees every problem at once.
#[derive(Clone, Copy, Default)]
pub struct Checks<'a> {
    /// Is given `[trainer]`.
    pub trainer: Option<TableCheck<'a>>,
    /// Is given the plugins of a manifest that is refused already. Those of a sound one are loaded
    /// and asked by whoever prepares it.
    pub plugin: Option<PluginCheck<'a>>,
}

impl Recipe {
    /// Reads and checks a manifest. Each override is `KEY=VALUE` with a dotted key
    /// (`generator.config.mode=strict`, `filters.0.plugin=rouge-l`) and a TOML value, or a bare
    /// word that stands for a string.
    ///
    /// # Errors
    /// Everything that is wrong with the manifest, at once.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Recipe, Problems> {
        Recipe::load_with(path, overrides, &Checks::default())
    }

    /// [`Recipe::load`] with other parts' checks of their own tables.
    ///
    /// # Errors
    /// Everything that is wrong with the manifest, at once.
    pub fn load_with(
        path: &Path,
        overrides: &[String],
        checks: &Checks<'_>,
    ) -> Result<Recipe, Problems> {
        let text = read(path)?;
        let folder = path.parent().map_or_else(PathBuf::new, Path::to_owned);
        let name = path.display().to_string();
        Recipe::from_text(&name, &folder, &text, overrides, checks)
    }

    /// Checks a manifest's text. `name` is how messages call it; paths in it are relative to
    /// `folder`.
    ///
    /// # Errors
    /// Everything that is wrong with the manifest, at once.
    pub fn from_text(
        name: &str,
        folder: &Path,
        text: &str,
        overrides: &[String],
        checks: &Checks<'_>,
    ) -> Result<Recipe, Problems> {
        let (document, secrets, mut problems) = document(name, folder, text, overrides)?;
        let recipe = parse::recipe(&document, &secrets, checks);
        if problems.is_empty() {
            return recipe;
        }
        problems.extend(recipe.err().into_iter().flatten());
        Err(problems)
    }
}

impl Document {
    /// Reads a manifest's text without asking what it means: for messages about text that was
    /// checked elsewhere, and for tests.
    ///
    /// # Errors
    /// What is wrong with it as TOML.
    pub fn parse(name: &str, folder: &Path, text: &str) -> Result<Document, Problems> {
        document(name, folder, text, &[]).map(|(document, ..)| document)
    }
}

fn read(path: &Path) -> Result<String, Problems> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| {
        let unreadable = |what: String| Problem::of_file(&name, what);
        if path.is_dir() {
            return unreadable("this is a folder, expected a manifest".to_owned())
                .help(beside(path, None));
        }
        match error.kind() {
            std::io::ErrorKind::NotFound => {
                let folder = path.parent().unwrap_or(Path::new(""));
                unreadable("there is no such manifest".to_owned())
                    .help(beside(folder, path.file_name()))
            }
            _ => unreadable(format!("the manifest cannot be read: {error}"))
                .help("make the file readable"),
        }
    });
    let text = bytes.map_err(Problems::from).map(String::from_utf8)?;
    text.map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
        Problem::of_file(&name, format!("line {line} is not UTF-8 text"))
            .help("save the manifest as UTF-8")
            .into()
    })
}

/// What manifests there are in a folder.
fn beside(folder: &Path, wanted: Option<&std::ffi::OsStr>) -> String {
    let here = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let mut names: Vec<String> = std::fs::read_dir(here)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    let shown = |name: &str| folder.join(name).display().to_string();
    let wanted = wanted.and_then(|name| name.to_str()).unwrap_or_default();
    if let Some(name) = nearest(wanted, names.iter().map(String::as_str)) {
        return format!("did you mean {}?", shown(name));
    }
    match names.len() {
        0 => "give the path of a TOML manifest; `manifests/` has some to start from".to_owned(),
        1..=12 => {
            let names: Vec<String> = names.iter().map(|name| shown(name)).collect();
            format!("manifests there: {}", names.join(", "))
        }
        many => format!("there are {many} TOML files in {}", here.display()),
    }
}

/// The document, the keys that should not be in it, and the overrides that cannot be applied;
/// `Err` only where the text is not TOML, for then there is nothing to check.
fn document(
    name: &str,
    folder: &Path,
    text: &str,
    overrides: &[String],
) -> Result<(Document, Vec<Secret>, Problems), Problems> {
    let origin = Origin {
        source: Source::Text,
        offset: 0,
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut unfit = Vec::new();
    let mut root = Node {
        place: origin.place(0..0),
        value: Value::Table(table_from_toml(table.get_ref(), origin, &mut unfit)),
    };
    let broken = !errors.is_empty() || !unfit.is_empty();
    let mut refused = Vec::new();
    if !broken {
        for (index, text) in overrides.iter().enumerate() {
            refused.extend(overrides::apply(&mut root, text, index).err());
        }
    }
    let mut secrets = secrets::take(&mut root);
    hide_key_like_words(text, Source::Text, &mut secrets);
    for (index, text) in overrides.iter().enumerate() {
        hide_key_like_words(text, Source::Override(index), &mut secrets);
    }
    let document = Document::new(
        name.to_owned(),
        folder.to_owned(),
        text,
        overrides,
        root,
        &secrets,
    );
    let problem = |place: Place, message: String, help: String| {
        Problem::spanned(
            &document,
            String::new(),
            Some(document.span(place)),
            message,
        )
        .help(help)
    };
    let mut problems = Problems::new();
    if broken {
        problems.extend(
            syntax_errors(&errors, text)
                .into_iter()
                .map(|(span, message, help)| problem(origin.place(span), message, help)),
        );
        // What a broken text holds is guesswork; only the numbers are certain.
        problems.extend(
            unfit
                .into_iter()
                .filter(|_| errors.is_empty())
                .map(|place| {
                    problem(
                        place,
                        "the number does not fit in 64 bits".to_owned(),
                        "write a smaller number".to_owned(),
                    )
                }),
        );
    }
    problems.extend(
        refused
            .into_iter()
            .map(|refused| problem(refused.place, refused.message, refused.help)),
    );
    if broken {
        return Err(problems);
    }
    Ok((document, secrets, problems))
}

/// In comments and in broken text too.
fn hide_key_like_words(text: &str, source: Source, secrets: &mut Vec<Secret>) {
    for range in secrets::ranges(text) {
        let place = Place {
            source,
            start: range.start,
            end: range.end,
        };
        let known = secrets.iter().any(|secret| {
            secret.place.source == source
                && secret.place.start <= place.start
                && place.end <= secret.place.end
        });
        if !known {
            let path = String::new();
            secrets.push(Secret { path, place });
        }
    }
}

/// The parser's errors in a user's words, the first of each line: later ones of a line are echoes.
fn syntax_errors(
    errors: &[toml::de::Error],
    text: &str,
) -> Vec<(std::ops::Range<usize>, String, String)> {
    let mut found: Vec<(std::ops::Range<usize>, String, String)> = errors
        .iter()
        .map(|error| {
            let span = error.span().unwrap_or(text.len()..text.len());
            let (message, help) = explain(error.message(), text.get(span.clone()).unwrap_or(""));
            (span, message, help)
        })
        .collect();
    found.sort_by_key(|(span, ..)| span.start);
    let line = |at: usize| {
        text.as_bytes()[..at.min(text.len())]
            .iter()
            .filter(|&&b| b == b'\n')
            .count()
    };
    found.dedup_by_key(|(span, ..)| line(span.start));
    found
}

fn explain(message: &str, found: &str) -> (String, String) {
    let (what, expected) = message.split_once(", expected ").unwrap_or((message, ""));
    if what == "string values must be quoted" {
        return if found.trim().is_empty() {
            (
                "the key has no value".to_owned(),
                "write a value after `=`, or take the line out".to_owned(),
            )
        } else {
            (
                format!("`{found}` is not a TOML value"),
                format!("write {found:?}, in quotes, if a string is meant"),
            )
        };
    }
    let help = match (what, expected) {
        ("duplicate key", _) => {
            return (
                format!("`{found}` is there twice"),
                "keep one of the two".to_owned(),
            );
        }
        ("invalid boolean", _) => "write `true` or `false`".to_owned(),
        (_, "") | (_, "nothing") => "see https://toml.io for the notation".to_owned(),
        (_, one) if one.starts_with('`') && !one.contains(", ") => format!("write {one} here"),
        (_, several) => format!("expected {several}"),
    };
    (format!("not TOML: {what}"), help)
}
