//! The program as its users meet it, and the workspace as its readers do.

mod dependencies;
mod duel;
mod kill;
mod mistakes;
mod plugins;
mod run;
