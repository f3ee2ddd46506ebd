//! The one line that makes a plugin loadable, by either carrier.

/// Exports a plugin: `export!(generator T)`, `export!(filter T)` or `export!(evaluator T)`.
///
/// Built for a WASM target, the crate becomes a component of that world; built as a `cdylib`
/// for the machine, it exports the symbol `pacos_plugin` of the [native ABI](crate::native).
#[macro_export]
macro_rules! export {
    (generator $plugin:ty) => {
        $crate::export!(@component $plugin, GeneratorComponent, generator, export_generator_component);
        $crate::export!(@native $plugin, generator_table);
    };
    (filter $plugin:ty) => {
        $crate::export!(@component $plugin, FilterComponent, filter, export_filter_component);
        $crate::export!(@native $plugin, filter_table);
    };
    (evaluator $plugin:ty) => {
        $crate::export!(@component $plugin, EvaluatorComponent, evaluator, export_evaluator_component);
        $crate::export!(@native $plugin, evaluator_table);
    };
    (@component $plugin:ty, $component:ident, $world:ident, $export:ident) => {
        #[cfg(target_family = "wasm")]
        const _: () = {
            ::std::thread_local! {
                static INSTANCE: ::std::cell::RefCell<::std::option::Option<$plugin>> =
                    const { ::std::cell::RefCell::new(::std::option::Option::None) };
            }
            impl $crate::component::Stored for $plugin {
                fn slot() -> &'static ::std::thread::LocalKey<
                    ::std::cell::RefCell<::std::option::Option<Self>>,
                > {
                    &INSTANCE
                }
            }
            type Component = $crate::component::$component<$plugin>;
            $crate::bindings::$world::$export!(Component with_types_in $crate::bindings::$world);
        };
    };
    (@native $plugin:ty, $table:ident) => {
        #[cfg(not(target_family = "wasm"))]
        const _: () = {
            static TABLE: $crate::native::PluginTable = $crate::native::$table::<$plugin>();

            #[unsafe(no_mangle)]
            extern "C" fn pacos_plugin() -> *const $crate::native::PluginTable {
                &raw const TABLE
            }
        };
    };
}
