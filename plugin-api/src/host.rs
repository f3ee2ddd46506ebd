//! What a plugin may ask of the host.

use crate::{Error, Example, Level, Likelihood, ModelDescription, Prompt, Reply, Request};

/// The host, as a plugin sees it. Tests use [`testing::ScriptedHost`](crate::testing::ScriptedHost).
///
/// Models are known by the role that the recipe gives them (`teacher`, `judge`, `student`,
/// `student.base`), and each role needs the capability `models:ROLE`, declared in
/// [`Plugin::describe`](crate::Plugin::describe) and granted in the recipe.
pub trait Host {
    /// What can be asked of the model behind `role`.
    ///
    /// # Errors
    /// `not-granted` where the role was not granted, `no-such-role` where the recipe has none.
    fn describe_model(&self, role: &str) -> Result<ModelDescription, Error>;

    /// Asks many things at once. Replies come in the order of the requests, and one that failed
    /// does not hide the others.
    ///
    /// # Errors
    /// As [`Host::describe_model`]; also `budget` where the grant does not cover the requests.
    fn complete_many(
        &self,
        role: &str,
        requests: &[Request],
    ) -> Result<Vec<Result<Reply, Error>>, Error>;

    /// Asks one thing.
    ///
    /// # Errors
    /// As [`Host::complete_many`], and what the model refused for good (`request-refused`).
    fn complete(&self, role: &str, request: &Request) -> Result<Reply, Error> {
        let mut replies = self.complete_many(role, std::slice::from_ref(request))?;
        match (replies.pop(), replies.is_empty()) {
            (Some(reply), true) => reply,
            _ => Err(Error::new(
                "host-broke-contract",
                "one request did not bring one reply",
            )),
        }
    }

    /// How many tokens `text` has for the model behind `role`.
    ///
    /// # Errors
    /// As [`Host::describe_model`]; `unsupported` where the model does not say.
    fn count_tokens(&self, role: &str, text: &str) -> Result<u32, Error>;

    /// Log-likelihood (natural logarithm, summed over tokens) of `answer` after `prompt`.
    ///
    /// # Errors
    /// As [`Host::describe_model`]; `unsupported` where the model does not say.
    fn log_likelihood(
        &self,
        role: &str,
        prompt: &Prompt,
        answer: &str,
    ) -> Result<Likelihood, Error>;

    /// Accepted examples `start`, `start + 1`, ... at most `count` of them and none beyond the
    /// unit's own `accepted`. Empty for filters and evaluators.
    fn accepted(&self, start: u64, count: u32) -> Vec<Example>;

    /// Tells the person who runs the plugin something.
    fn log(&self, level: Level, message: &str);

    /// Tells how far a long call has come.
    fn progress(&self, done: u64, total: u64);
}
