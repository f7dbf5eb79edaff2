//! The types that most programs need: `use albedo::prelude::*;`

pub use albedo_core::{
    Assessment, BuildContext, CallContext, ChainClient, CheckContext, Comparison, Contestant, Duel,
    DuelBuilder, DuelReport, DuelSettings, Error, ErrorKind, Event, EventKind, EventSink, Factory, Fault,
    FileStore, Identity, Judge, JudgeProfile, MemoryStore, Metric, ModelBackend, ModelRef, ModelSession,
    ModelSessionExt, ModelSource, Outcome, Plugin, Record, RecordStore, Registry, Rule, Score, Screen, Seed,
    Side, TaskSource, Verdict, register,
};
