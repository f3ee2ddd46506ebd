//! The filter `alpaca-heuristics` as an Extism plugin. Its one function `judge` takes a JSON array
//! of candidates and gives one of verdicts.

use std::cell::RefCell;

use alpaca_heuristics::AlpacaHeuristics;
use extism_pdk::{plugin_fn, FnResult, Json};
use pacos_plugin::{testing::ScriptedHost, Candidate, Filter, Plugin, Verdict};

std::thread_local! {
    /// Made once an instance, with the configuration that an empty table gives, as the host of
    /// components does.
    static FILTER: RefCell<AlpacaHeuristics> = RefCell::new(configured());
    /// The filter asks no model.
    static HOST: ScriptedHost = ScriptedHost::new();
}

fn configured() -> AlpacaHeuristics {
    let config = serde_json::from_str("{}").expect("every key has a default");
    AlpacaHeuristics::configure(config).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// One batch.
#[plugin_fn]
pub fn judge(Json(batch): Json<Vec<Candidate>>) -> FnResult<Json<Vec<Verdict>>> {
    let verdicts = HOST.with(|host| FILTER.with_borrow_mut(|filter| filter.judge(batch, host)));
    match verdicts {
        Ok(verdicts) => Ok(Json(verdicts)),
        Err(error) => Err(extism_pdk::Error::msg(error.message).into()),
    }
}
