//! Writing plugins: a new project, what builds it, and where its files are.

mod embedded;
mod project;
mod scaffold;
mod toolchain;

pub use project::{Language, Project, ProjectError, UnknownWord, kind_named};
pub use scaffold::{NewProject, ScaffoldError, scaffold};
pub use toolchain::{BuildError, Carrier, Missing, build, fresh, run_own_tests};
