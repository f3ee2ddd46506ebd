//! Bindings made from the WIT package, the one source of the contract.
//!
//! One module a world. The `guest` world holds what the three plugin worlds share, so that a
//! `Task` is one type whichever stage it passes through.

#![allow(
    missing_docs,
    reason = "documentation of these items comes from the WIT files, where it is optional"
)]

pub mod guest {
    wit_bindgen::generate!({
        path: "wit/0.1.1",
        world: "guest",
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
        generate_all,
    });
}

pub mod generator {
    wit_bindgen::generate!({
        path: "wit/0.1.1",
        world: "generator-plugin",
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
        with: {
            "pacos:plugin/types@0.1.1": crate::bindings::guest::pacos::plugin::types,
            "pacos:plugin/models@0.1.1": crate::bindings::guest::pacos::plugin::models,
            "pacos:plugin/http@0.1.1": crate::bindings::guest::pacos::plugin::http,
            "pacos:plugin/log@0.1.1": crate::bindings::guest::pacos::plugin::log,
            "pacos:plugin/accepted@0.1.1": crate::bindings::guest::pacos::plugin::accepted,
        },
        pub_export_macro: true,
        export_macro_name: "export_generator_component",
        default_bindings_module: "pacos_plugin::bindings::generator",
    });
}

pub mod filter {
    wit_bindgen::generate!({
        path: "wit/0.1.1",
        world: "filter-plugin",
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
        with: {
            "pacos:plugin/types@0.1.1": crate::bindings::guest::pacos::plugin::types,
            "pacos:plugin/models@0.1.1": crate::bindings::guest::pacos::plugin::models,
            "pacos:plugin/http@0.1.1": crate::bindings::guest::pacos::plugin::http,
            "pacos:plugin/log@0.1.1": crate::bindings::guest::pacos::plugin::log,
        },
        pub_export_macro: true,
        export_macro_name: "export_filter_component",
        default_bindings_module: "pacos_plugin::bindings::filter",
    });
}

pub mod evaluator {
    wit_bindgen::generate!({
        path: "wit/0.1.1",
        world: "evaluator-plugin",
        additional_derives: [PartialEq, serde::Serialize, serde::Deserialize],
        with: {
            "pacos:plugin/types@0.1.1": crate::bindings::guest::pacos::plugin::types,
            "pacos:plugin/models@0.1.1": crate::bindings::guest::pacos::plugin::models,
            "pacos:plugin/http@0.1.1": crate::bindings::guest::pacos::plugin::http,
            "pacos:plugin/log@0.1.1": crate::bindings::guest::pacos::plugin::log,
        },
        pub_export_macro: true,
        export_macro_name: "export_evaluator_component",
        default_bindings_module: "pacos_plugin::bindings::evaluator",
    });
}
