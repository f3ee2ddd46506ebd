//! `pacos plugin new`.

use std::path::PathBuf;

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};

use crate::{
    author::{Language, NewProject, ScaffoldError, UnknownWord, kind_named, scaffold},
    cli::Failed,
    plugin::Stage,
};

#[derive(Args)]
pub(super) struct NewArgs {
    /// The plugin's name: small letters, digits and hyphens
    name: String,
    /// What the plugin is for
    #[arg(long, value_parser = word(["generator", "filter", "evaluator"], kind_named))]
    kind: Stage,
    /// What it is written in
    #[arg(long, value_parser = word(Language::ALL.map(Language::name), str::parse::<Language>))]
    lang: Language,
    /// The project's folder; without it, one of the plugin's name in this folder
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

/// One of these words, as what it stands for.
fn word<const N: usize, T: Clone + Send + Sync + 'static>(
    words: [&'static str; N],
    meaning: fn(&str) -> Result<T, UnknownWord>,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words).try_map(move |word| meaning(&word))
}

pub(super) fn new(args: &NewArgs) -> Result<(), Failed> {
    let folder = args
        .path
        .clone()
        .unwrap_or_else(|| PathBuf::from(&args.name));
    let project = NewProject {
        name: &args.name,
        kind: args.kind,
        language: args.lang,
        folder: &folder,
    };
    scaffold(&project).map_err(|error| {
        let code = match error {
            ScaffoldError::Name(_) | ScaffoldError::Exists(_) => 2,
            ScaffoldError::Write { .. } => 5,
        };
        Failed::Other(error.into(), code)
    })?;
    let shown = folder.display();
    println!(
        "wrote {shown}: {} in {}",
        with_article(args.kind),
        args.lang
    );
    println!("next: pacos plugin test {shown}");
    Ok(())
}

fn with_article(kind: Stage) -> &'static str {
    match kind {
        Stage::Generator => "a generator",
        Stage::Filter => "a filter",
        Stage::Evaluator => "an evaluator",
    }
}
