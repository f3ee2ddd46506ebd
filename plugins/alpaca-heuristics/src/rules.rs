//! A configuration, made ready for work.

use crate::{config::Config, phrases::Phrases};

/// What checks go by: the configuration, and the phrases of it and of the checks themselves.
pub(crate) struct Rules {
    /// Its phrases are in the fields below.
    pub(crate) config: Config,
    pub(crate) blocked: Phrases,
    pub(crate) attachments: Phrases,
    pub(crate) refusals: Phrases,
    pub(crate) no_input: Phrases,
    pub(crate) no_input_in_brackets: Phrases,
    pub(crate) images: Phrases,
}

impl Rules {
    pub(crate) fn new(mut config: Config) -> Self {
        Rules {
            blocked: Phrases::new(std::mem::take(&mut config.blocked_phrases)),
            attachments: Phrases::new(std::mem::take(&mut config.attachment_phrases)),
            refusals: Phrases::new(std::mem::take(&mut config.refusals)),
            no_input: Phrases::new(["noinput"]),
            no_input_in_brackets: Phrases::new([
                "<no input>",
                "[no input]",
                "(no input)",
                "{no input}",
            ]),
            images: Phrases::new(["<img", "img src=", "data:image/"]),
            config,
        }
    }
}
