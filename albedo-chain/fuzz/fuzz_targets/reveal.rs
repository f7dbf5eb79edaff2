//! The bytes of a reveal: whatever they are, they are a text or not, the text a
//! submission or not, and a submission is written as it was read.
#![no_main]

use albedo_chain::reveal::{parse, text};
use albedo_core::chain::Hotkey;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let author = Hotkey("5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY".into());
    if let Ok(text) = text(bytes)
        && let Ok(submission) = parse(&text, &author)
    {
        let written = submission.to_string();
        assert!(text == written || text == format!("{written}|{author}"));
    }
});
