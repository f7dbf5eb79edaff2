//! Bit-exact imitations of what the Python system computes with: only the rules
//! and samplers that reproduce it use them.

pub(crate) mod numpy;
pub(crate) mod python;
