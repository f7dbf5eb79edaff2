//! Records of every format that albedo ever wrote are still read and verified.

use std::path::Path;

use albedo_core::record::{FORMAT, VerifyOptions, verify};
use albedo_core::{CallContext, Outcome};

#[tokio::test]
async fn records_of_every_format_verify() {
    for format in 1..=FORMAT {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("record-{format}"));
        let verification =
            verify(&folder, &VerifyOptions::default(), &CallContext::new()).await.expect("verifies");
        assert_eq!(verification.outcome, Outcome::Dethroned, "format {format}");
        assert_eq!((verification.samples, verification.answers), (8, 32), "format {format}");
    }
}
