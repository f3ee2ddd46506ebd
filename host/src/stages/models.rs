//! The recipe's models: checked before work begins, opened when a stage needs them, closed after it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use crate::{
    ledger::{Ledger, LedgerError},
    llama::{self, Engine, EngineOptions, InferenceModel, ModelSource},
    manifest::{Model, Provider, Recipe, Sampling},
    models::{LocalProvider, Served, Service},
    servers::Servers,
};

/// The student before training.
pub(super) const BASE: &str = "student.base";
/// The student; before training, the same as [`BASE`].
pub(super) const STUDENT: &str = "student";
/// Who wrote the examples.
pub(super) const TEACHER: &str = "teacher";

/// Told what a model's coming takes.
pub type FetchProgress<'a> = &'a mut (dyn FnMut(llama::Progress) + Send);

/// A local model that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("model `{name}`: {message}")]
pub struct OpenError {
    name: String,
    message: String,
}

/// Why a stage has no models to ask.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A local model cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The ledger, which knows what was spent.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The models that roles name. Remote ones are at hand; a local one is in memory only while a
/// service that it answers for is there. Beside them the servers that plugins ask.
pub struct Models {
    recipe: Arc<Recipe>,
    remote: Vec<Served>,
    servers: Arc<Servers>,
}

impl Models {
    pub(super) fn new(recipe: Arc<Recipe>, remote: Vec<Served>, servers: Servers) -> Self {
        Models {
            recipe,
            remote,
            servers: Arc::new(servers),
        }
    }

    /// Remote models, for questions that cost nothing.
    pub(super) fn remote(&self) -> &[Served] {
        &self.remote
    }

    /// Whether the recipe gives a role to somebody.
    pub(super) fn has(&self, role: &str) -> bool {
        self.model(role).is_some()
    }

    /// The model that a role names, the student before training.
    pub(super) fn model(&self, role: &str) -> Option<&Model> {
        let role = if role == BASE { STUDENT } else { role };
        self.recipe.models.get(self.recipe.roles.get(role)?)
    }

    /// What a role's model is, as far as it is known before it is opened.
    pub(super) fn source(&self, role: &str) -> Option<String> {
        let model = self.model(role)?;
        let remote = self.remote.iter().find(|remote| remote.name == model.name);
        Some(match (remote, &model.provider) {
            (Some(remote), _) => remote.provider.identity(),
            (None, Provider::Local(local)) => local.model.clone(),
            (None, Provider::OpenAi(openai)) => openai.model.clone(),
        })
    }

    /// The same with how a local model is sampled: what its answers depend on.
    pub(super) fn answers_as(&self, role: &str) -> Option<String> {
        let source = self.source(role)?;
        let sampling = match &self.model(role)?.provider {
            Provider::Local(local) => local.sampling.written(),
            Provider::OpenAi(_) => None,
        };
        Some(match sampling {
            None => source,
            Some(sampling) => format!("{source} sampling {sampling}"),
        })
    }

    /// Brings the local models of these roles to this machine and checks that they are whole,
    /// without reading their weights: what would be missing after hours is missed now.
    ///
    /// # Errors
    /// The first model that is not there or not sound.
    pub(super) fn fetch<'a>(
        &self,
        roles: impl IntoIterator<Item = &'a String>,
        progress: FetchProgress<'_>,
    ) -> Result<(), OpenError> {
        let named = roles.into_iter().filter_map(|role| self.model(role));
        let names: BTreeSet<&String> = named.map(|model| &model.name).collect();
        for name in names {
            if let Provider::Local(local) = &self.recipe.models[name].provider {
                let failed = |error: &dyn std::fmt::Display| OpenError {
                    name: name.clone(),
                    message: error.to_string(),
                };
                let source: ModelSource = local.model.parse().map_err(|e| failed(&e))?;
                let there = source.fetch(progress).map_err(|e| failed(&e))?;
                there.check().map_err(|e| failed(&e))?;
            }
        }
        Ok(())
    }

    /// Opens what these roles need and puts it behind them. `trained` is the student's folder,
    /// once there is one; before that, `student` is the base model.
    ///
    /// # Errors
    /// When a model cannot be fetched, read or started, or the ledger cannot be read.
    pub(super) fn serve(
        &self,
        roles: &BTreeSet<String>,
        trained: Option<&Path>,
        ledger: &Ledger,
        progress: FetchProgress<'_>,
    ) -> Result<Arc<Service>, ServeError> {
        let mut names = BTreeMap::new();
        let mut served: Vec<Served> = Vec::new();
        for role in roles {
            let Some(model) = self.model(role) else {
                continue;
            };
            let folder = trained.filter(|_| role == STUDENT);
            let name = match folder {
                Some(_) => format!("{}, trained", model.name),
                None => model.name.clone(),
            };
            if !served.iter().any(|there| there.name == name) {
                let remote = self.remote.iter().find(|remote| remote.name == name);
                served.push(match (remote, &model.provider) {
                    (Some(remote), _) => remote.clone(),
                    (None, Provider::Local(local)) => {
                        let source = match folder {
                            Some(folder) => folder.display().to_string(),
                            None => local.model.clone(),
                        };
                        open(name.clone(), &source, model, progress)?
                    }
                    (None, Provider::OpenAi(_)) => unreachable!("remote models are all at hand"),
                });
            }
            names.insert(role.clone(), name);
        }
        let budget = self.recipe.budget.clone();
        let service = Service::new(names, served, budget, ledger.clone())?;
        Ok(Arc::new(service.with_servers(self.servers.clone())))
    }
}

/// Opens one local model and starts an engine on it.
fn open(
    name: String,
    source: &str,
    model: &Model,
    progress: FetchProgress<'_>,
) -> Result<Served, OpenError> {
    let failed = |error: &dyn std::fmt::Display| OpenError {
        name: name.clone(),
        message: error.to_string(),
    };
    let parsed: ModelSource = source.parse().map_err(|e| failed(&e))?;
    let local = parsed.fetch(progress).map_err(|e| failed(&e))?;
    let opened = InferenceModel::open(&local, progress).map_err(|e| failed(&e))?;
    let options = EngineOptions {
        max_batch: model.max_concurrency,
        context_length: model.context_length.map(|length| length as usize),
        ..EngineOptions::default()
    };
    let engine = Engine::start(opened, options).map_err(|e| failed(&e))?;
    let sampling = match &model.provider {
        Provider::Local(local) => local.sampling.clone(),
        Provider::OpenAi(_) => Sampling::default(),
    };
    let provider = LocalProvider::new(source.to_owned(), engine).with_sampling(sampling);
    Ok(Served {
        name,
        provider: Arc::new(provider),
        price: None,
        max_concurrency: model.max_concurrency,
        max_attempts: 1,
        requests_per_minute: None,
        tokens_per_minute: None,
    })
}
