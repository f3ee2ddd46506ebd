//! What a recipe is made of, for the dataset's card and for the report.

use super::Prepared;
use crate::{
    dataset::{About, AboutModel, AboutPlugin},
    manifest::Seeds,
    models::Service,
};

/// Names a recipe's models and plugins. `service` knows who exactly the models are that were opened.
pub(super) fn about(prepared: &Prepared, service: &Service) -> About {
    let recipe = &prepared.recipe;
    let published = recipe.published();
    let plugins = std::iter::once(&prepared.generator)
        .chain(&prepared.filters)
        .chain(&prepared.evaluators);
    let seeds = match &recipe.seeds {
        Seeds::Bundled => "written for Pacos, Apache-2.0".to_owned(),
        Seeds::File(path) => format!("from `{}`", path.file_name().unwrap_or_default().display()),
    };
    let roles_of = |name: &str| -> Vec<String> {
        let roles = recipe.roles.iter();
        roles
            .filter(|(_, named)| *named == name)
            .map(|(role, _)| role.clone())
            .collect()
    };
    let used = recipe
        .models
        .values()
        .filter(|model| !roles_of(&model.name).is_empty());
    About {
        recipe: recipe.name.clone(),
        license: recipe.dataset.license.clone(),
        seeds: format!("{} seed tasks, {seeds}", prepared.seeds.len()),
        models: used
            .map(|model| {
                let roles = roles_of(&model.name);
                let told = &published["models"][&model.name];
                let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
                AboutModel {
                    name: model.name.clone(),
                    provider: text("provider"),
                    model: text("model"),
                    identity: roles
                        .iter()
                        .find_map(|role| service.identity(role))
                        .map(str::to_owned),
                    terms: model.terms.clone(),
                    roles,
                }
            })
            .collect(),
        plugins: plugins
            .map(|plugin| AboutPlugin {
                stage: plugin.recipe.path.clone(),
                title: plugin.title(),
                sha256: plugin.sha256.clone(),
            })
            .collect(),
        manifest: recipe.published_toml(),
    }
}
