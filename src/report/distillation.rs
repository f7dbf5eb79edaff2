//! The report of a distillation, as a page in one file.

use std::io;

use serde_json::json;

use super::page::{DISTILLATION, data, made_by};
use crate::distil::DistilRecord;

/// Writes the report of `record`, which was verified, as one file that asks for nothing: the
/// loss by step, the held-out loss, data, stages and what the gate found. `name` is what the
/// distillation is called, `plan` the digest of its plan.
///
/// # Errors
/// What `out` meets.
pub fn write_distillation(
    record: &DistilRecord,
    plan: crate::Digest,
    name: &str,
    out: &mut dyn io::Write,
) -> io::Result<()> {
    DISTILLATION.write(out, |out| {
        let shown = json!({ "name": name, "plan": plan, "record": record, "made_by": made_by() });
        data(out, "distillation", &shown)
    })
}
