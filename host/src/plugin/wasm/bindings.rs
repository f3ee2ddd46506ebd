//! Bindings made from the WIT package, seen from the host's side.

#![allow(
    missing_docs,
    reason = "documentation of these items comes from the WIT files, where it is optional"
)]

pub mod guest {
    wasmtime::component::bindgen!({
        path: "../plugin-api/wit/0.1.1",
        world: "guest",
        imports: { default: async | trappable },
    });
}

pub mod generator {
    wasmtime::component::bindgen!({
        path: "../plugin-api/wit/0.1.1",
        world: "generator-plugin",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "pacos:plugin/types@0.1.1": crate::plugin::wasm::bindings::guest::pacos::plugin::types,
            "pacos:plugin/models@0.1.1": crate::plugin::wasm::bindings::guest::pacos::plugin::models,
            "pacos:plugin/http@0.1.1": crate::plugin::wasm::bindings::guest::pacos::plugin::http,
            "pacos:plugin/log@0.1.1": crate::plugin::wasm::bindings::guest::pacos::plugin::log,
            "pacos:plugin/accepted@0.1.1": crate::plugin::wasm::bindings::guest::pacos::plugin::accepted,
        },
    });
}

pub mod filter {
    wasmtime::component::bindgen!({
        path: "../plugin-api/wit/0.1.1",
        world: "filter-plugin",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "pacos:plugin/types@0.1.1": crate::plugin::wasm::bindings::guest::pacos::plugin::types,
            "pacos:plugin/models@0.1.1": crate::plugin::wasm::bindings::guest::pacos::plugin::models,
            "pacos:plugin/http@0.1.1": crate::plugin::wasm::bindings::guest::pacos::plugin::http,
            "pacos:plugin/log@0.1.1": crate::plugin::wasm::bindings::guest::pacos::plugin::log,
        },
    });
}

pub mod evaluator {
    wasmtime::component::bindgen!({
        path: "../plugin-api/wit/0.1.1",
        world: "evaluator-plugin",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "pacos:plugin/types@0.1.1": crate::plugin::wasm::bindings::guest::pacos::plugin::types,
            "pacos:plugin/models@0.1.1": crate::plugin::wasm::bindings::guest::pacos::plugin::models,
            "pacos:plugin/http@0.1.1": crate::plugin::wasm::bindings::guest::pacos::plugin::http,
            "pacos:plugin/log@0.1.1": crate::plugin::wasm::bindings::guest::pacos::plugin::log,
        },
    });
}
