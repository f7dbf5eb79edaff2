//! stub
pub mod replay;
