//! What the tests of all judges share: replies as they are recorded, and laws.

use albedo_core::conformance;
use albedo_core::{
    Assessment, CallContext, Candidate, Comparison, FinishReason, Judge, Message, MessageRole, Metric, Score,
};
use futures::executor::block_on;
