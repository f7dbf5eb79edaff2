//! The program as its users meet it, and the workspace as its readers do.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

mod admission;
#[cfg(feature = "validator")]
mod altered;
mod attacks;
mod audit;
mod bench;
mod chat;
mod config;
mod decide;
mod defence;
mod dependencies;
mod dialects;
#[cfg(target_os = "linux")]
mod disks;
#[cfg(feature = "distil")]
mod distil;
mod duel;
mod faults;
#[cfg(feature = "distil")]
mod flywheel;
mod folders;
#[cfg(feature = "validator")]
mod follow;
mod generate;
#[cfg(feature = "validator")]
mod import;
#[cfg(unix)]
mod interrupted;
mod judges;
mod kill;
mod loads;
mod log;
mod machine;
mod machine_guide;
#[cfg(feature = "validator")]
mod miner;
mod mistakes;
mod mistakes_table;
mod new;
mod newcomer;
mod numbers;
mod panel;
mod peers;
mod plugins;
#[cfg(unix)]
mod process;
mod published;
mod question;
mod real_judge;
mod rejudged;
#[cfg(feature = "validator")]
mod remembered;
mod reported;
mod run;
#[cfg(unix)]
mod screens;
#[cfg(feature = "server")]
mod serve;
#[cfg(feature = "server")]
mod serve_hub;
#[cfg(feature = "server")]
mod serve_jobs;
#[cfg(all(feature = "nats", unix))]
mod serve_nats;
mod served;
mod talk;
mod terminal;
#[cfg(feature = "validator")]
mod validator;
#[cfg(feature = "validator")]
mod validator_broken;
#[cfg(feature = "validator")]
mod validator_kills;
#[cfg(feature = "validator")]
mod validator_served;
mod verify_py;
mod ways_to_fail;
