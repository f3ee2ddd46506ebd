//! Golden cases of the bundled plugins: what they must say, whichever carrier they come in. A
//! plugin of another author under the same name claims to be one of them, and is held to it.

use std::path::Path;

use super::{Outcome, Report};
use crate::{kit::cases, plugin::Loaded};

const GOLDEN: [(&str, &str); 4] = [
    ("self-instruct", include_str!("golden/self-instruct.toml")),
    (
        "alpaca-heuristics",
        include_str!("golden/alpaca-heuristics.toml"),
    ),
    ("rouge-l", include_str!("golden/rouge-l.toml")),
    ("pairwise-judge", include_str!("golden/pairwise-judge.toml")),
];

pub(super) async fn check(plugin: &mut Loaded, report: &mut Report) {
    let name = plugin.description.name.clone();
    let Some((_, text)) = GOLDEN.iter().find(|(bundled, _)| *bundled == name) else {
        return;
    };
    let file = format!("{name}.toml");
    match cases::run_text(plugin, Path::new(&file), text).await {
        Ok(cases) => {
            for (case, differences) in cases {
                let outcome = match differences.is_empty() {
                    true => Outcome::Passed,
                    false => Outcome::Failed(differences.join("; ")),
                };
                report.golden.push((case, outcome));
            }
        }
        // A plugin of another stage, under this name.
        Err(error) => report
            .golden
            .push((file, Outcome::Failed(error.to_string()))),
    }
}
