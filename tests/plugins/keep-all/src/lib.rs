//! A filter that keeps everything, for what the plugin boundary costs by itself.

use pacos_plugin::{
    Candidate, Description, Diagnostic, Error, Filter, Host, Plugin, Verdict, schemars,
};

/// The filter.
pub struct KeepAll;

/// It has nothing to configure.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {}

impl Plugin for KeepAll {
    type Config = Config;

    fn describe() -> Description {
        Description::new("keep-all", "0.1.0")
    }

    fn configure(Config {}: Config) -> Result<Self, Vec<Diagnostic>> {
        Ok(KeepAll)
    }
}

impl Filter for KeepAll {
    fn judge(&mut self, batch: Vec<Candidate>, _host: &dyn Host) -> Result<Vec<Verdict>, Error> {
        Ok(batch.iter().map(|_| Verdict::keep()).collect())
    }
}

pacos_plugin::export!(filter KeepAll);
