//! C.
use super::BuildError;
use crate::author::Project;
use std::path::Path;
pub(super) fn build_component(_project: &Project, _output: &Path) -> Result<(), BuildError> {
    todo!()
}
pub(super) fn build_library(_project: &Project, _output: &Path) -> Result<(), BuildError> {
    todo!()
}
