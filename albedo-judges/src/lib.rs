//! Judges of albedo, and, with the feature `screens`, its screens. All judges but `chat` and
//! `process` need no network and answer the same question the same way on every machine:
//!
//! | judge | asks | metrics |
//! | --- | --- | --- |
//! | [`protocol`] | does the reply keep the operating contract? | protocol |
//! | [`reference_action`] | how close is its command to the recorded one? | correctness, grounding, progress, efficiency |
//! | [`reference_likelihood`] | how likely is the recorded reply to its model? | correctness |
//! | [`chat`] | what does a chat model say? | by its rubric |
//! | `process` (feature `process`) | what does a program of your own say? | by its program |
//! | [`replay`] | what did a judge answer in a record? | that judge's |
//!
//! The first three are mirrored exactly: for any two replies the scores of the two
//! orders add up to 1 in `f64`, and a reply against itself scores 0.5.
#![forbid(unsafe_code)]

pub mod chat;
pub mod defence;
pub mod form;
mod names;
#[cfg(all(feature = "process", unix))]
pub mod process;
pub mod protocol;
mod quality;
pub mod reference_action;
pub mod reference_likelihood;
pub mod replay;
mod reply;
#[cfg(feature = "screens")]
pub mod screens;
mod shell;
#[cfg(test)]
mod testing;
mod twin;
