//! Contract 0.1 is kept as it grows, and a host that serves a second contract serves both side by side.
//!
//! The second one, 0.2, has one more field in its verdicts, and is made up for these tests. What
//! the host of that day needs is here in small: bindings of its own for each version, conversions
//! into the plain types of the newest, and a choice by the interface that a component names.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use pacos::{
    kit::run_cases,
    manifest::{Plugin, PluginSource},
    models::BoxFuture,
    plugin::{Instance, Loaded, NoCalls},
};
use pacos_plugin::{Candidate, CandidateId, Decision, Payload, Task};
use sha2::{Digest, Sha256};
use wit_parser::{Interface, Resolve, Type, TypeDefKind};

use crate::component;

fn frozen() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/kit/contracts")
}

fn frozen_plugin() -> Plugin {
    Plugin::alone(PluginSource::File(
        frozen().join("alpaca-heuristics-0.1.0.wasm"),
    ))
}

/// What 0.1.0 has, 0.1.1 has as it was: the same functions over the same types, under the same
/// names and in the same order. So a plugin of the one is served by what serves the other, in both
/// carriers.
#[test]
fn a_later_contract_of_the_track_only_adds() {
    let read = |folder: PathBuf| {
        let mut resolve = Resolve::default();
        resolve.push_dir(folder).unwrap();
        interfaces(&resolve)
    };
    let old = read(frozen().join("0.1.0"));
    let new = read(frozen().join("0.1.1"));
    for (name, items) in &old {
        let kept = &new[name];
        assert_eq!(&items, &kept, "{name} is not what it was");
    }
    let added: Vec<_> = new.keys().filter(|name| !old.contains_key(*name)).collect();
    assert_eq!(added, ["http"]);
}

/// The interfaces of a package, each with its types and functions in words.
fn interfaces(resolve: &Resolve) -> BTreeMap<String, Vec<String>> {
    fn show(resolve: &Resolve, ty: &Type) -> String {
        let Type::Id(id) = ty else {
            return format!("{ty:?}");
        };
        let def = &resolve.types[*id];
        match &def.name {
            Some(name) => name.clone(),
            None => kind(resolve, &def.kind),
        }
    }
    fn kind(resolve: &Resolve, kind: &TypeDefKind) -> String {
        let optional = |ty: &Option<Type>| ty.map_or("_".into(), |ty| show(resolve, &ty));
        match kind {
            TypeDefKind::Type(ty) => format!("as {}", show(resolve, ty)),
            TypeDefKind::List(ty) => format!("list<{}>", show(resolve, ty)),
            TypeDefKind::Option(ty) => format!("option<{}>", show(resolve, ty)),
            TypeDefKind::Result(result) => {
                format!(
                    "result<{}, {}>",
                    optional(&result.ok),
                    optional(&result.err)
                )
            }
            TypeDefKind::Record(record) => {
                let fields = record.fields.iter();
                let fields = fields.map(|f| format!("{}: {}", f.name, show(resolve, &f.ty)));
                format!("record {{ {} }}", fields.collect::<Vec<_>>().join(", "))
            }
            TypeDefKind::Variant(variant) => {
                let cases = variant.cases.iter();
                let cases = cases.map(|c| format!("{}({})", c.name, optional(&c.ty)));
                format!("variant {{ {} }}", cases.collect::<Vec<_>>().join(", "))
            }
            TypeDefKind::Enum(cases) => {
                let cases = cases.cases.iter().map(|case| case.name.as_str());
                format!("enum {{ {} }}", cases.collect::<Vec<_>>().join(", "))
            }
            other => panic!("teach this test {other:?}"),
        }
    }
    let interface = |(_, interface): (_, &Interface)| {
        let types = interface.types.iter();
        let types = types.map(|(name, id)| {
            let def = &resolve.types[*id];
            format!("{name} = {}", kind(resolve, &def.kind))
        });
        let functions = interface.functions.values().map(|function| {
            let parameters = function.params.iter();
            let parameters = parameters.map(|p| show(resolve, &p.ty));
            let result = function.result.as_ref();
            format!(
                "{}({}) -> {}",
                function.name,
                parameters.collect::<Vec<_>>().join(", "),
                result.map_or("nothing".into(), |ty| show(resolve, ty)),
            )
        });
        let name = interface.name.clone().unwrap();
        (name, types.chain(functions).collect())
    };
    resolve.interfaces.iter().map(interface).collect()
}

#[test]
fn the_released_contract_is_not_changed() {
    let read = |folder: PathBuf| -> BTreeMap<String, String> {
        let files = fs::read_dir(folder).unwrap();
        files
            .map(|file| file.unwrap())
            .map(|file| {
                let name = file.file_name().into_string().unwrap();
                (name, fs::read_to_string(file.path()).unwrap())
            })
            .collect()
    };
    let contract = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../plugin-api/wit/0.1.1");
    assert!(
        read(contract) == read(frozen().join("0.1.1")),
        "plugin-api/wit/0.1.1 is not what was released: a change is a new version, in a folder of its own"
    );
}

/// It was built from source, and compared, when its contract was the newest.
#[test]
fn the_frozen_component_is_the_one_that_was_released() {
    let bytes = fs::read(frozen().join("alpaca-heuristics-0.1.0.wasm")).unwrap();
    let hash = Sha256::digest(bytes);
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hash,
        "9f3e6ea36fbdbd2f8c78f7357e8f3635edc02c4ee545a39a7081b0186402e3e1"
    );
}

#[tokio::test]
async fn a_plugin_of_the_first_users_is_still_served() {
    let folder = tempfile::tempdir().unwrap();
    let cases = folder.path().join("cases.toml");
    let text = r#"
[[case]]
name = "as on the first day"
config = { min_words = 3 }
input = [
    { instruction = "Name a", output = "x" },
    { instruction = "Name a river.", output = "Po" },
    { instruction = "Name a river.", input = "<noinput>", output = "Po" },
]
expect = [
    { decision = "drop", code = "too-short", scores = { words = 2 } },
    { decision = "keep", code = "kept" },
    { decision = "edit", payload = { input = "" } },
]
"#;
    fs::write(&cases, text).unwrap();
    let report = run_cases(&frozen_plugin(), &cases).await.unwrap();
    assert!(report.failed.is_empty(), "{report:?}");
}

/// Version 0.2, as a host would hold it beside the other.
mod v0_2 {
    use pacos_plugin as plain;
    use wasmtime::{
        Config, Engine, Store,
        component::{Component, HasSelf, Linker, ResourceTable},
    };
    use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

    use super::{BoxFuture, NewestInstance, NewestVerdict};

    #[allow(missing_docs, reason = "generated code")]
    mod bindings {
        wasmtime::component::bindgen!({
            path: "../tests/plugins/next-filter/wit/0.2.0",
            world: "filter-plugin",
            imports: { default: async | trappable },
            exports: { default: async },
        });
    }
    use bindings::{
        FilterPlugin,
        exports::pacos::plugin::filter,
        pacos::plugin::{log, models, types},
    };

    /// The interface by which a component asks for this module.
    pub const FILTER: &str = "pacos:plugin/filter@0.2.0";

    struct State {
        wasi: WasiCtx,
        table: ResourceTable,
    }

    impl WasiView for State {
        fn ctx(&mut self) -> WasiCtxView<'_> {
            WasiCtxView {
                ctx: &mut self.wasi,
                table: &mut self.table,
            }
        }
    }

    impl types::Host for State {}

    fn no_models() -> types::Error {
        types::Error {
            code: "not-granted".into(),
            message: "no models here".into(),
            retryable: false,
        }
    }

    impl models::Host for State {
        async fn describe(
            &mut self,
            _role: String,
        ) -> wasmtime::Result<Result<models::ModelDescription, types::Error>> {
            Ok(Err(no_models()))
        }

        async fn complete(
            &mut self,
            _role: String,
            _request: models::Request,
        ) -> wasmtime::Result<Result<models::Reply, types::Error>> {
            Ok(Err(no_models()))
        }

        async fn complete_many(
            &mut self,
            _role: String,
            _requests: Vec<models::Request>,
        ) -> wasmtime::Result<Result<Vec<Result<models::Reply, types::Error>>, types::Error>>
        {
            Ok(Err(no_models()))
        }

        async fn count_tokens(
            &mut self,
            _role: String,
            _text: String,
        ) -> wasmtime::Result<Result<u32, types::Error>> {
            Ok(Err(no_models()))
        }

        async fn log_likelihood(
            &mut self,
            _role: String,
            _prompt: models::Prompt,
            _answer: String,
        ) -> wasmtime::Result<Result<models::Likelihood, types::Error>> {
            Ok(Err(no_models()))
        }
    }

    impl log::Host for State {
        async fn write(&mut self, _level: log::Level, _message: String) -> wasmtime::Result<()> {
            Ok(())
        }

        async fn progress(&mut self, _done: u64, _total: u64) -> wasmtime::Result<()> {
            Ok(())
        }
    }

    pub struct V0_2 {
        store: Store<State>,
        exports: FilterPlugin,
    }

    impl V0_2 {
        pub async fn load(bytes: &[u8]) -> wasmtime::Result<Self> {
            let engine = Engine::new(&Config::new())?;
            let component = Component::new(&engine, bytes)?;
            let mut linker = Linker::<State>::new(&engine);
            wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
            FilterPlugin::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
            let state = State {
                wasi: WasiCtxBuilder::new().build(),
                table: ResourceTable::new(),
            };
            let mut store = Store::new(&engine, state);
            let exports = FilterPlugin::instantiate_async(&mut store, &component, &linker).await?;
            Ok(V0_2 { store, exports })
        }
    }

    impl From<plain::Candidate> for filter::Candidate {
        fn from(candidate: plain::Candidate) -> Self {
            let message = |m: plain::Message| types::Message {
                role: m.role,
                content: m.content,
            };
            filter::Candidate {
                id: types::CandidateId {
                    unit: candidate.id.unit,
                    n: candidate.id.n,
                },
                payload: match candidate.payload {
                    plain::Payload::Task(task) => types::Payload::Task(types::Task {
                        instruction: task.instruction,
                        input: task.input,
                        output: task.output,
                    }),
                    plain::Payload::Chat(messages) => {
                        types::Payload::Chat(messages.into_iter().map(message).collect())
                    }
                },
                attributes: Vec::new(),
                parents: Vec::new(),
                seed: candidate.seed,
            }
        }
    }

    impl From<filter::Verdict> for NewestVerdict {
        fn from(verdict: filter::Verdict) -> Self {
            let decision = match verdict.decision {
                filter::Decision::Keep => plain::Decision::Keep,
                filter::Decision::Drop => plain::Decision::Drop,
                filter::Decision::Edit(_) => unreachable!("the filter of this test never edits"),
            };
            NewestVerdict {
                decision,
                code: verdict.code,
                confidence: verdict.confidence,
            }
        }
    }

    impl NewestInstance for V0_2 {
        fn judge<'a>(
            &'a mut self,
            batch: Vec<plain::Candidate>,
        ) -> BoxFuture<'a, Vec<NewestVerdict>> {
            Box::pin(async move {
                let batch: Vec<filter::Candidate> = batch.into_iter().map(Into::into).collect();
                let guest = self.exports.pacos_plugin_filter();
                let verdicts = guest.call_judge(&mut self.store, &batch).await;
                let verdicts = verdicts.unwrap().unwrap();
                verdicts.into_iter().map(Into::into).collect()
            })
        }
    }
}

/// A verdict in the plain types of a host whose newest contract is 0.2.
#[derive(Debug, PartialEq)]
struct NewestVerdict {
    decision: Decision,
    code: String,
    /// What 0.1 does not say.
    confidence: Option<f64>,
}

/// An instance of a filter, whatever contract it was built for.
trait NewestInstance: Send {
    fn judge<'a>(&'a mut self, batch: Vec<Candidate>) -> BoxFuture<'a, Vec<NewestVerdict>>;
}

/// Version 0.1: everything that this host has for it, and one conversion.
struct V0_1(Box<dyn Instance>);

impl From<pacos_plugin::Verdict> for NewestVerdict {
    fn from(verdict: pacos_plugin::Verdict) -> Self {
        NewestVerdict {
            decision: verdict.decision,
            code: verdict.code,
            confidence: None,
        }
    }
}

impl NewestInstance for V0_1 {
    fn judge<'a>(&'a mut self, batch: Vec<Candidate>) -> BoxFuture<'a, Vec<NewestVerdict>> {
        Box::pin(async move {
            let verdicts = self.0.judge_batch(batch, Arc::new(NoCalls), 1).await;
            verdicts.unwrap().into_iter().map(Into::into).collect()
        })
    }
}

/// Loads a component under the contract that it names: this host's own, or the made-up next one.
async fn load(plugin: &Plugin) -> Box<dyn NewestInstance> {
    let PluginSource::File(path) = &plugin.source else {
        panic!("a file is named");
    };
    match Loaded::load(plugin).await {
        Ok(loaded) => Box::new(V0_1(loaded.instance(&[]).await.unwrap())),
        Err(refused) => {
            // Refused by what is in its export names, before anything was compiled.
            let text = refused.to_string();
            assert!(
                text.contains(&format!("exports {}", v0_2::FILTER)),
                "{text}"
            );
            let bytes = fs::read(path).unwrap();
            Box::new(v0_2::V0_2::load(&bytes).await.unwrap())
        }
    }
}

fn candidates(instructions: &[&str]) -> Vec<Candidate> {
    let candidate = |(n, instruction): (u32, &&str)| Candidate {
        id: CandidateId { unit: 0, n },
        payload: Payload::Task(Task::new(*instruction, "", "An answer.")),
        attributes: Vec::new(),
        parents: Vec::new(),
        seed: 0,
    };
    (0..).zip(instructions).map(candidate).collect()
}

#[tokio::test]
async fn two_contracts_are_served_side_by_side() {
    let mut chain = [
        load(&frozen_plugin()).await,
        load(&Plugin::alone(PluginSource::File(component("next-filter")))).await,
    ];
    let batch = candidates(&["Hi", "Name four rivers there."]);
    let verdict = |decision: Decision, code: &str, confidence| NewestVerdict {
        decision,
        code: code.into(),
        confidence,
    };
    // In turn and again: neither knows of the other.
    for _ in 0..2 {
        assert_eq!(
            chain[0].judge(batch.clone()).await,
            [
                verdict(Decision::Drop, "too-short", None),
                verdict(Decision::Keep, "kept", None),
            ]
        );
        assert_eq!(
            chain[1].judge(batch.clone()).await,
            [
                verdict(Decision::Drop, "too-short", Some(1.0)),
                verdict(Decision::Keep, "kept", Some(0.5)),
            ]
        );
    }
}

#[tokio::test]
async fn todays_host_refuses_the_next_contract_in_words_for_user_and_author() {
    let plugin = Plugin::alone(PluginSource::File(component("next-filter")));
    let error = Loaded::load(&plugin).await.err().unwrap().to_string();
    assert!(
        error.ends_with(
            "It was built for contract 0.2.0, which is newer than this host's 0.1.1. \
             Who uses it: take a newer release of Pacos, or an older release of the plugin. \
             Who wrote it: a build with a `pacos-plugin` of contract 0.1.1 also runs on hosts of this age"
        ),
        "{error}"
    );
}
