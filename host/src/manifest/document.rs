//! Placeholder until the manifest branch is merged.
/// The text.
#[derive(Debug, Clone)]
pub struct Document;
