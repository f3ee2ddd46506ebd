//! Reason codes: kebab-case, as the contract says, so that they can be counted and searched.

use pacos_plugin::{Proposals, Verdict};

use super::CallError;

/// Lower-case words of letters and digits with hyphens between them, a letter first.
pub(crate) fn is_kebab_case(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.split('-').all(|word| {
            !word.is_empty()
                && word
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        })
}

fn check<'a>(what: &str, mut codes: impl Iterator<Item = &'a String>) -> Result<(), CallError> {
    match codes.find(|code| !is_kebab_case(code)) {
        Some(code) => Err(CallError::Invalid(format!(
            "{what} has the code {code:?}; codes are kebab-case, such as `too-short`"
        ))),
        None => Ok(()),
    }
}

/// Codes that no filter may give.
pub(super) fn check_codes(verdicts: &[Verdict]) -> Result<(), CallError> {
    check("a verdict", verdicts.iter().map(|verdict| &verdict.code))
}

/// Codes that no generator may give.
pub(crate) fn check_rejects(proposals: &Proposals) -> Result<(), CallError> {
    check(
        "a reject",
        proposals.rejects.iter().map(|reject| &reject.code),
    )
}
