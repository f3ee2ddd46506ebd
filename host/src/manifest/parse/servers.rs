//! `[[servers]]`: what there is to say of a server that plugins ask, beyond its name.

use super::variable;
use crate::manifest::{
    Plugin, Server, ServerName,
    reader::{Key, Table, key},
};

pub(super) const SERVER: &[Key] = &[
    key("name", "\"wiki.example.com\""),
    key("api_key_env", "\"WIKI_KEY\""),
    key("private", "true"),
];

/// All that are sound. Each must be granted to some plugin, or it is a mistake.
pub(super) fn servers<'a>(
    root: &Table<'_>,
    plugins: impl Iterator<Item = &'a Plugin>,
) -> Vec<Server> {
    let granted: Vec<&String> = plugins.flat_map(|plugin| &plugin.grant).collect();
    let mut servers: Vec<Server> = Vec::new();
    for table in root.tables("servers", SERVER) {
        table.refuse_unknown();
        table.require(&["name"]);
        let private = table.boolean("private").unwrap_or(false);
        let api_key_env = variable(&table, "api_key_env");
        let Some(written) = table.string("name") else {
            continue;
        };
        let name: ServerName = match written.parse() {
            Ok(name) => name,
            Err(error) => {
                table.problem("name", error.found, error.help);
                continue;
            }
        };
        if servers.iter().any(|server| server.name == name) {
            let message = format!("the server `{name}` is written twice");
            table.problem("name", message, "write one `[[servers]]` for it");
        }
        let capability = name.capability();
        if !granted.contains(&&capability) {
            let message = format!("no plugin may ask the server `{name}`");
            let help = format!(
                "write `grant = [\"{capability}\"]` in the plugin's table, or take this one out"
            );
            table.problem("name", message, help);
        }
        servers.push(Server {
            name,
            api_key_env,
            private,
        });
    }
    servers
}
