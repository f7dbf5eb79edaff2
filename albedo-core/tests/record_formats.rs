//! Records of every format that albedo ever wrote are still read and verified.

use std::path::{Path, PathBuf};

use albedo_core::record::{AnyRecord, FORMAT, VerifyOptions, verify};
use albedo_core::verdict::Forfeit;
use albedo_core::{CallContext, Outcome};

#[tokio::test]
async fn records_of_every_format_verify() {
    for format in 1..=FORMAT {
        let folder = fixture(&format!("record-{format}"));
        let verification =
            verify(&folder, &VerifyOptions::default(), &CallContext::new()).await.expect("verifies");
        assert_eq!(verification.outcome, Outcome::Dethroned, "format {format}");
        assert_eq!((verification.samples, verification.answers), (8, 32), "format {format}");
    }
}

/// Format 3 is the first that has them.
#[test]
fn records_of_forfeits_of_every_format_verify() {
    for format in 3..=FORMAT {
        let AnyRecord::Forfeit(record) =
            AnyRecord::open(&fixture(&format!("forfeit-{format}"))).expect("reads")
        else {
            panic!("format {format}: it is a forfeit")
        };
        record.verify(None).expect("verifies");
        assert_eq!(record.outcome(), Outcome::Forfeit(Forfeit::Screened));
    }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}
