//! Distillation: the traces of duels train the next challenger.
//!
//! A duel leaves conversations, both replies to each and what a panel made of them. From
//! such records and from task sets a student learns in stages: the recorded turns
//! themselves, or a teacher's distribution at each of their tokens. The result is the final
//! model only if it behaves, and wins a duel against its start on tasks that neither has
//! seen.
//!
//! | file | has |
//! | --- | --- |
//! | `config` | [`DistilConfig`]: one TOML file |
//! | `data` | the rows: what is trained on, what is held out, what the length cap cuts |
//! | `rename` | other names for what a trajectory's code defines |
//! | `order` | which conversation is read when: a pure function of the seed |
//! | `run` | [`Distillation`]: training that goes on after a kill with the same bits |
//! | `sample` | replies of the student as it is |
//! | `gate` | screens, and the duel against the start |
//! | `record` | [`DistilRecord`]: what is kept of it |
//! | `demo` | [`demo()`]: the demo pack's distillation |
//! | `flywheel` | [`flywheel`]: rounds of duel, distillation and gate |
//!
//! The same configuration, data, build and machine give the same parameters.

mod config;
mod data;
mod demo;
pub mod flywheel;
mod gate;
mod order;
mod record;
mod rename;
mod run;
mod sample;

pub use config::{
    Control, DataSettings, DistilConfig, Gate, GateSettings, LicensedSource, Objective, Open, Rows, Source,
    Split, StageSettings, StudentSettings, TrainSettings, Turns, Weight,
};
pub use data::{DataReport, Held, LeftOut, SetReport, SourceReport};
pub use demo::demo;
pub use record::{
    Checkpoint, ClosedGate, DistilPlan, DistilRecord, GateDuel, GatePlan, GateReport, HeldOutLoss, Metrics,
    ModelFacts, SCHEMA, StagePlan, State,
};
pub use run::{Again, Distillation, Happening, Watcher, regenerate};
