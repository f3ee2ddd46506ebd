//! What a plugin may ask of the host.

use crate::{
    Error, Example, HttpRequest, HttpResponse, Level, Likelihood, ModelDescription, Prompt, Reply,
    Request,
};

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
        only(self.complete_many(role, std::slice::from_ref(request))?)
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

    /// Sends many requests to servers at once. Responses come in the order of the requests, and
    /// one that failed does not hide the others.
    ///
    /// Each server needs the capability `http:HOST`, declared and granted like those of models. A
    /// run sends the same request once; its recorded response answers whoever repeats it. A
    /// response of any status is a response; redirects are not followed. Keys are the recipe's:
    /// the host sends them, and no plugin sees them.
    ///
    /// ```
    /// use pacos_plugin::{testing::ScriptedHost, Host, HttpRequest};
    ///
    /// let host = ScriptedHost::new().response(200, r#"{"known": true}"#);
    /// let request = HttpRequest::get("https://facts.example.com/rivers?name=Po");
    /// let response = host.fetch(&request)?;
    /// assert_eq!(response.status, 200);
    /// assert!(response.text().contains("known"));
    /// # Ok::<(), pacos_plugin::Error>(())
    /// ```
    ///
    /// # Errors
    /// `budget` where the grant does not cover the requests, `too-many-requests` where nobody can
    /// mean so many. Of a single request: `not-granted`, `bad-request` for what cannot be sent,
    /// `private-address` for a name that leads into the user's own network, `no-answer` for a
    /// server that does not answer, `response-too-large`.
    fn fetch_many(
        &self,
        requests: &[HttpRequest],
    ) -> Result<Vec<Result<HttpResponse, Error>>, Error> {
        // Hosts of an author's own tests may be older than this function.
        let _ = requests;
        Err(Error::new("unsupported", "this host asks no servers"))
    }

    /// Sends one request to a server.
    ///
    /// # Errors
    /// As [`Host::fetch_many`].
    fn fetch(&self, request: &HttpRequest) -> Result<HttpResponse, Error> {
        only(self.fetch_many(std::slice::from_ref(request))?)
    }

    /// Accepted examples `start`, `start + 1`, ... at most `count` of them and none beyond the
    /// unit's own `accepted`. Empty for filters and evaluators.
    fn accepted(&self, start: u64, count: u32) -> Vec<Example>;

    /// Tells the person who runs the plugin something.
    fn log(&self, level: Level, message: &str);

    /// Tells how far a long call has come.
    fn progress(&self, done: u64, total: u64);
}

/// What one request brought.
fn only<T>(mut results: Vec<Result<T, Error>>) -> Result<T, Error> {
    match (results.pop(), results.is_empty()) {
        (Some(result), true) => result,
        _ => Err(Error::new(
            "host-broke-contract",
            "one request did not bring one reply",
        )),
    }
}
