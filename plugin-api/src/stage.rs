//! The traits that a plugin implements.

use serde::de::DeserializeOwned;

use crate::{
    Candidate, Description, Diagnostic, Error, Host, Item, Judged, Judgement, Metric, Proposals,
    Task, Unit, Verdict,
};

/// What every plugin has: a name and a configuration.
pub trait Plugin: Sized + 'static {
    /// The plugin's own table of the manifest. Defaults, unknown-key errors and the JSON Schema
    /// all come from this type.
    type Config: DeserializeOwned + schemars::JsonSchema;

    /// Name, version, capabilities wanted.
    fn describe() -> Description;

    /// Makes an instance, or says what is wrong with the configuration. Asks no model.
    ///
    /// # Errors
    /// Diagnostics, each naming its key; `configure` is called before the first request is paid.
    fn configure(config: Self::Config) -> Result<Self, Vec<Diagnostic>>;

    /// What the user should know of a configuration that works all the same.
    fn warnings(&self) -> Vec<Diagnostic> {
        Vec::new()
    }
}

/// Proposes candidates, one unit of work at a time.
pub trait Generator: Plugin {
    /// Receives the seed tasks, once, before the first unit.
    ///
    /// # Errors
    /// When the seeds cannot be used; the run stops before anything is spent.
    fn start(&mut self, seeds: Vec<Task>) -> Result<(), Error>;

    /// Does one unit. The same unit with the same replies must give the same proposals.
    ///
    /// # Errors
    /// A failure of the whole unit. What could not be read in a reply is a
    /// [`Reject`](crate::Reject), not an error.
    fn generate(&mut self, unit: Unit, host: &dyn Host) -> Result<Proposals, Error>;
}

/// Keeps, drops or edits candidates.
pub trait Filter: Plugin {
    /// Receives the seed tasks, once, before the first batch.
    ///
    /// # Errors
    /// When the seeds cannot be used; the run stops before anything is spent.
    fn start(&mut self, seeds: Vec<Task>) -> Result<(), Error> {
        let _ = seeds;
        Ok(())
    }

    /// Rebuilds the state of a stateful filter from its own verdicts, in the order they were
    /// given. Stateless filters have nothing to do.
    ///
    /// # Errors
    /// When the history contradicts itself.
    fn restore(&mut self, history: Vec<Judged>) -> Result<(), Error> {
        let _ = history;
        Ok(())
    }

    /// Gives one verdict for each candidate, in order. A verdict may depend on the seeds and on
    /// this filter's earlier verdicts, never on where a batch begins or ends.
    ///
    /// # Errors
    /// A failure of the whole batch; the host then looks for the record that causes it.
    fn judge(&mut self, batch: Vec<Candidate>, host: &dyn Host) -> Result<Vec<Verdict>, Error>;
}

/// Compares the answers of models.
pub trait Evaluator: Plugin {
    /// Judges the answers to one task.
    ///
    /// # Errors
    /// A failure of the whole item. A judge that would not answer is an
    /// [`Outcome`](crate::Outcome), not an error.
    fn judge(&mut self, item: Item, host: &dyn Host) -> Result<Vec<Judgement>, Error>;

    /// Turns all judgements into figures.
    ///
    /// # Errors
    /// When no figure can be computed from them.
    fn summarise(&mut self, judgements: Vec<Judgement>) -> Result<Vec<Metric>, Error>;
}
