//! The one list of plugin crates. A crate that is only a dependency and never
//! named is dropped by the linker, and its plugins with it.

#[cfg(any(
    feature = "config",
    feature = "cpu",
    feature = "hubs",
    feature = "openai",
    feature = "tasks"
))]
use albedo_backends as _;
#[cfg(any(feature = "chain", feature = "validator"))]
use albedo_chain as _;
#[cfg(feature = "judges")]
use albedo_judges as _;
