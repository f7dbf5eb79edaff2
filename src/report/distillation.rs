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
        let shown = json!({
            "name": name,
            "plan": plan,
            // JavaScript rounds whole numbers of more than 53 bits.
            "seed": record.plan.seed.to_string(),
            "record": record,
            "made_by": made_by(),
        });
        data(out, "distillation", &shown)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    #[test]
    fn the_page_gets_a_seed_of_64_bits_as_text_and_all_that_is_not_trained_on() {
        let fixture = include_str!("../distil/record/fixtures/distil-2.json");
        let mut record: DistilRecord = serde_json::from_str(fixture).expect("a record");
        record.plan.seed = u64::MAX;
        let mut page = Vec::new();
        write_distillation(&record, Digest::of("plan"), "name", &mut page).expect("writes");
        let page = String::from_utf8(page).expect("UTF-8");
        assert!(page.contains(&format!("\"seed\":\"{}\"", u64::MAX)), "{page}");
        assert!(page.contains("label('Seed', all.seed)"));
        for counted in ["left_out", "dropped", "without_room", "cut", "cut_supervised"] {
            assert!(page.contains(&format!("set.{counted}")) || page.contains(&format!("data.{counted}")));
        }
    }
}
