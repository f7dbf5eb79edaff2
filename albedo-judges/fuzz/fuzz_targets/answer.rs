//! A judge's answer: whatever it is, it is read or refused, and a verdict that is
//! read has all five metrics and is not read under another nonce.
#![no_main]

use albedo_judges::chat::read_verdict;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|answer: &str| {
    if let Ok(scores) = read_verdict(answer, "0123456789ab") {
        assert_eq!(scores.len(), 5);
        assert!(read_verdict(answer, "ba9876543210").is_err() || answer.contains("ba9876543210"));
    }
});
