//! The program as its users meet it, and the workspace as its readers do.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod dependencies;
mod duel;
mod kill;
mod mistakes;
mod plugins;
mod run;
#[cfg(unix)]
mod screens;
