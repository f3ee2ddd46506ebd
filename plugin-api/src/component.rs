//! A plugin as a WASM component: the exports of each world over the traits, and the host over
//! the imports. Used through [`export!`](crate::export) only.

use std::{cell::RefCell, marker::PhantomData, thread::LocalKey};

use crate::{
    Candidate, Description, Diagnostic, Error, Evaluator, Example, Filter, Generator, Host,
    HttpRequest, HttpResponse, Item, Judged, Judgement, Level, Likelihood, Metric,
    ModelDescription, Plugin, Prompt, Proposals, Reply, Request, Task, Unit, Verdict,
    bindings::{
        evaluator::exports::pacos::plugin::evaluator, filter::exports::pacos::plugin::filter,
        generator::exports::pacos::plugin::generator, guest::pacos::plugin as imports,
    },
    configure,
};

/// Where the one instance of a component lives.
pub trait Stored: Plugin {
    /// The place, empty until `configure` has succeeded.
    fn slot() -> &'static LocalKey<RefCell<Option<Self>>>;
}

/// Hands the message and the place of a panic to the host, which tells them as the reason of the
/// trap that follows. A component has no standard error that anybody reads.
fn tell_panics() {
    std::panic::set_hook(Box::new(|panic| {
        imports::log::write(Level::Error, &panic.to_string());
    }));
}

fn describe<P: Plugin>() -> Description {
    tell_panics();
    configure::description::<P>()
}

fn configure<P: Stored>(config: &str) -> Vec<Diagnostic> {
    tell_panics();
    match configure::configure::<P>(config) {
        Ok(plugin) => {
            let warnings = plugin.warnings();
            P::slot().with_borrow_mut(|slot| *slot = Some(plugin));
            warnings
        }
        Err(diagnostics) => diagnostics,
    }
}

fn with<P: Stored, T>(call: impl FnOnce(&mut P) -> Result<T, Error>) -> Result<T, Error> {
    P::slot().with_borrow_mut(|slot| match slot {
        Some(plugin) => call(plugin),
        None => Err(Error::new(
            "not-configured",
            "the host called a stage before `configure` succeeded",
        )),
    })
}

/// The exports of a generator component.
pub struct GeneratorComponent<P>(PhantomData<P>);

impl<P: Generator + Stored> generator::Guest for GeneratorComponent<P> {
    fn describe() -> Description {
        describe::<P>()
    }

    fn configure(config: String) -> Vec<Diagnostic> {
        configure::<P>(&config)
    }

    fn start(seeds: Vec<Task>) -> Result<(), Error> {
        with::<P, _>(|plugin| plugin.start(seeds))
    }

    fn generate(unit: Unit) -> Result<Proposals, Error> {
        with::<P, _>(|plugin| plugin.generate(unit, &Imports { accepted: true }))
    }
}

/// The exports of a filter component.
pub struct FilterComponent<P>(PhantomData<P>);

impl<P: Filter + Stored> filter::Guest for FilterComponent<P> {
    fn describe() -> Description {
        describe::<P>()
    }

    fn configure(config: String) -> Vec<Diagnostic> {
        configure::<P>(&config)
    }

    fn start(seeds: Vec<Task>) -> Result<(), Error> {
        with::<P, _>(|plugin| plugin.start(seeds))
    }

    fn restore(history: Vec<Judged>) -> Result<(), Error> {
        with::<P, _>(|plugin| plugin.restore(history))
    }

    fn judge(batch: Vec<Candidate>) -> Result<Vec<Verdict>, Error> {
        with::<P, _>(|plugin| plugin.judge(batch, &Imports { accepted: false }))
    }
}

/// The exports of an evaluator component.
pub struct EvaluatorComponent<P>(PhantomData<P>);

impl<P: Evaluator + Stored> evaluator::Guest for EvaluatorComponent<P> {
    fn describe() -> Description {
        describe::<P>()
    }

    fn configure(config: String) -> Vec<Diagnostic> {
        configure::<P>(&config)
    }

    fn judge(item: Item) -> Result<Vec<Judgement>, Error> {
        with::<P, _>(|plugin| plugin.judge(item, &Imports { accepted: false }))
    }

    fn summarise(judgements: Vec<Judgement>) -> Result<Vec<Metric>, Error> {
        with::<P, _>(|plugin| plugin.summarise(judgements))
    }
}

/// The host behind the imports. Only a generator's world imports `accepted`.
struct Imports {
    accepted: bool,
}

impl Host for Imports {
    fn describe_model(&self, role: &str) -> Result<ModelDescription, Error> {
        imports::models::describe(role)
    }

    fn complete_many(
        &self,
        role: &str,
        requests: &[Request],
    ) -> Result<Vec<Result<Reply, Error>>, Error> {
        imports::models::complete_many(role, requests)
    }

    fn complete(&self, role: &str, request: &Request) -> Result<Reply, Error> {
        imports::models::complete(role, request)
    }

    fn count_tokens(&self, role: &str, text: &str) -> Result<u32, Error> {
        imports::models::count_tokens(role, text)
    }

    fn log_likelihood(
        &self,
        role: &str,
        prompt: &Prompt,
        answer: &str,
    ) -> Result<Likelihood, Error> {
        imports::models::log_likelihood(role, prompt, answer)
    }

    fn fetch_many(
        &self,
        requests: &[HttpRequest],
    ) -> Result<Vec<Result<HttpResponse, Error>>, Error> {
        imports::http::fetch_many(requests)
    }

    fn fetch(&self, request: &HttpRequest) -> Result<HttpResponse, Error> {
        imports::http::fetch(request)
    }

    fn accepted(&self, start: u64, count: u32) -> Vec<Example> {
        if self.accepted {
            imports::accepted::read(start, count)
        } else {
            Vec::new()
        }
    }

    fn log(&self, level: Level, message: &str) {
        imports::log::write(level, message);
    }

    fn progress(&self, done: u64, total: u64) {
        imports::log::progress(done, total);
    }
}
