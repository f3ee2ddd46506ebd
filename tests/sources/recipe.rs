//! A whole recipe with a fetched plugin.

use scripted_server::alpaca_teacher;

use crate::{
    User, digest,
    registry::{Holdings, Registry},
    support::{Bench, Recipe, dataset, pacos, query, succeeds},
};

#[test]
fn a_run_with_a_fetched_filter_is_the_run_with_its_file() {
    let rouge = include_bytes!("../../plugins/components/rouge-l.wasm");
    let mut holdings = Holdings::default();
    let manifest_digest = holdings.push("0.1.0", rouge, "application/wasm");
    let registry = Registry::start(holdings);
    let with = |last: &str| Recipe {
        filters: format!("[[filters]]\nplugin = \"alpaca-heuristics\"\n\n[[filters]]\n{last}"),
        target: 30,
        ..Recipe::default()
    };
    let source = registry.source(":0.1.0");
    let fetched = with(&format!(
        "plugin = \"{source}\"\nsha256 = \"{}\"",
        digest(rouge)
    ));
    let bench = Bench::new(alpaca_teacher(), &fetched);
    let user = User::new();
    let manifest = bench.manifest();
    succeeds(&mut user.fetch(manifest.to_str().expect("the path is text")));
    registry.server.stop();
    let run = |name: &str| {
        let dir = bench.dir(name);
        let mut run = pacos();
        run.arg("run").arg(&manifest).arg("--dir").arg(&dir);
        run.env("PACOS_CACHE", user.home.path().join("cache"));
        succeeds(run.arg("--offline"));
        let rows: Vec<_> = dataset(&dir)
            .into_iter()
            .filter(|(name, _)| name.ends_with(".json"))
            .collect();
        (
            query(&dir, "SELECT count(*) FROM verdicts WHERE filter = 1"),
            rows,
        )
    };
    let first = run("fetched");
    assert!(first.0 > 0);
    let lock = std::fs::read_to_string(bench.dir("fetched").join("pacos.lock")).expect("a lock");
    let pinned = registry.source(&format!("@sha256:{manifest_digest}"));
    for line in [
        format!(
            "source = \"{source}\"\nresolved = \"{pinned}\"\nsha256 = \"{}\"\n",
            digest(rouge)
        ),
        "[plugins.\"filters.1\"]\n".to_owned(),
    ] {
        assert!(lock.contains(&line), "{lock}");
    }
    bench.write(&with("plugin = \"rouge-l\""));
    assert_eq!(run("bundled"), first);
}
