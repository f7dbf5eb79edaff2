//! Chain clients of albedo: [`local`], a chain in memory.
#![forbid(unsafe_code)]

pub mod local;
