//! What a plugin uses of the crate `pacos-plugin`, and an `export!` that exports nothing: so a
//! plugin's source can be a part of another program.

pub use plugin::*;

/// Nothing, whatever the plugin.
#[macro_export]
macro_rules! export {
    ($($plugin:tt)*) => {};
}
