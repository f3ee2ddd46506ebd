//! Two filters as an Extism plugin: `alpaca_heuristics`, and `keep_all`, which does nothing. Each
//! is a function that takes a JSON array of candidates and gives one of verdicts.

#![allow(
    missing_docs,
    reason = "`#[plugin_fn]` leaves a function's documentation out"
)]

use std::{cell::RefCell, thread::LocalKey};

use ::alpaca_heuristics::AlpacaHeuristics;
use ::keep_all::KeepAll;
use extism_pdk::{plugin_fn, FnResult, Json};
use pacos_plugin::{testing::ScriptedHost, Candidate, Filter, Plugin, Verdict};

type Made<P> = LocalKey<RefCell<P>>;

std::thread_local! {
    // Made once an instance, as a component's are.
    static ALPACA_HEURISTICS: RefCell<AlpacaHeuristics> = made();
    static KEEP_ALL: RefCell<KeepAll> = made();
    // Neither asks a model.
    static HOST: ScriptedHost = ScriptedHost::new();
}

/// With the configuration that an empty table of a recipe gives.
fn made<P: Plugin>() -> RefCell<P> {
    let config = serde_json::from_str("{}").expect("every key has a default");
    RefCell::new(P::configure(config).unwrap_or_else(|problems| panic!("{problems:?}")))
}

fn judge<P: Filter>(
    plugin: &'static Made<P>,
    batch: Vec<Candidate>,
) -> FnResult<Json<Vec<Verdict>>> {
    match HOST.with(|host| plugin.with_borrow_mut(|filter| filter.judge(batch, host))) {
        Ok(verdicts) => Ok(Json(verdicts)),
        Err(error) => Err(extism_pdk::Error::msg(error.message).into()),
    }
}

#[plugin_fn]
pub fn alpaca_heuristics(Json(batch): Json<Vec<Candidate>>) -> FnResult<Json<Vec<Verdict>>> {
    judge(&ALPACA_HEURISTICS, batch)
}

#[plugin_fn]
pub fn keep_all(Json(batch): Json<Vec<Candidate>>) -> FnResult<Json<Vec<Verdict>>> {
    judge(&KEEP_ALL, batch)
}
