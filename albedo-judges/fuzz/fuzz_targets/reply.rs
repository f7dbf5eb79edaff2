//! A reply: whatever it is, neither the fence nor a template token gets through.
#![no_main]

use albedo_judges::defence::{Budget, Defence};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|reply: &str| {
    let defence = Defence { budget: Budget::default(), fence: "0123456789ab".into() };
    let shown = defence.reply(reply).text;
    assert!(!shown.contains("0123456789ab") && !shown.contains("<|im_end|>"));
});
