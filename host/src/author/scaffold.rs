//! `pacos plugin new`: a project that builds and passes its own tests at once.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    embedded::{self, File},
    project::{Language, name_problem},
};
use crate::plugin::Stage;

/// What the templates call the plugin.
const TEMPLATE_NAME: &str = "my-plugin";

/// A project to be written.
pub struct NewProject<'a> {
    /// Small letters, digits and hyphens.
    pub name: &'a str,
    /// What the plugin is for.
    pub kind: Stage,
    /// What it is written in.
    pub language: Language,
    /// The project's folder, which must not exist yet, or be empty.
    pub folder: &'a Path,
}

/// A project that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ScaffoldError {
    /// The name cannot be a plugin's.
    #[error("the name {0}")]
    Name(String),
    /// There is something in the folder's place.
    #[error(
        "{} is there already, and nothing is overwritten: expected a folder that does not exist or is empty. Choose another name, or write --path DIR",
        .0.display()
    )]
    Exists(PathBuf),
    /// The disk.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Writes the project.
///
/// # Errors
/// When the name is no plugin's, the folder is taken, or the disk does not do its part.
pub fn scaffold(project: &NewProject) -> Result<(), ScaffoldError> {
    if let Some(problem) = name_problem(project.name) {
        return Err(ScaffoldError::Name(problem));
    }
    if taken(project.folder) {
        return Err(ScaffoldError::Exists(project.folder.to_owned()));
    }
    for file in files(project) {
        let path = project.folder.join(&file.path);
        let write_error = |source| ScaffoldError::Write {
            path: path.clone(),
            source,
        };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(write_error)?;
        }
        fs::write(&path, &file.bytes).map_err(write_error)?;
    }
    Ok(())
}

fn taken(folder: &Path) -> bool {
    match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => folder.symlink_metadata().is_ok(),
    }
}

/// Everything that the project consists of. The name stands in the files that are the author's,
/// not in those of the folder `pacos`.
fn files(project: &NewProject) -> Vec<File> {
    let NewProject {
        name,
        kind,
        language,
        ..
    } = *project;
    let mut files = vec![File::text(
        "plugin.toml",
        format!(
            "# What `pacos plugin build` and `pacos plugin test` know of this project.\n\
             name = \"{name}\"\nkind = \"{kind}\"\nlanguage = \"{}\"\n",
            language.name()
        ),
    )];
    files.extend(
        embedded::template(language, kind)
            .into_iter()
            .map(|file| file.with_name(TEMPLATE_NAME, name)),
    );
    files.extend(embedded::support(language, kind));
    files
}
