//! Screens: what keeps a contest honest before a GPU minute is spent.
//!
//! | screen | stage | looks at |
//! | --- | --- | --- |
//! | [`files`] | files | names, sizes, headers and pinned files of a listing |
//! | [`architecture`] | files | `config.json` against the king's |
//! | [`digest`] | parameters | exact copies, whole and tensor by tensor |
//! | [`fingerprint`] | parameters | the Python system's fingerprint, version 2 |
//! | [`lineage`] | parameters | whose work the weights are, by sketches of the aligned parameters |
//! | [`functional`] | behaviour | whose answers the model gives, beside the king |
//! | [`sanity`] | behaviour | replies that no working model gives |
//! | [`loops`] | behaviour | a dialogue that goes round in circles |
//! | [`tail`] | behaviour | a dialogue whose late turns fall apart |
//! | [`injection`] | behaviour | replies that address the judge |
//!
//! A screen finds `Clear`, `Flagged`, `Rejected` or `Unverified`, each with
//! evidence. `Rejected` rests on the submission's own bytes or words alone;
//! whatever we could not find out is an error or `Unverified`, never a foul.

pub mod architecture;
mod arithmetic;
mod behaviour;
pub mod digest;
mod evidence;
pub mod files;
pub mod fingerprint;
pub mod functional;
pub mod injection;
pub mod lineage;
mod listing;
pub mod loops;
mod meaning;
mod measure;
mod pair;
pub(crate) mod probes;
mod replies;
pub mod sanity;
pub mod store;
pub mod tail;
#[cfg(test)]
pub(crate) mod testing;

pub use evidence::is_like_the_king_alone;
pub use measure::{AlignTo, Measurement};
