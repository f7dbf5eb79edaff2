//! A reply: whatever it is, neither the fence nor a template token nor a character
//! that hides something gets through, what is shown keeps to its budget, and the
//! canonical form of a canonical form is the same.
#![no_main]

use albedo_judges::defence::{Budget, Defence, View};
use albedo_judges::form::Canonical;
use libfuzzer_sys::fuzz_target;

const FENCE: &str = "0123456789ab";

/// Characters of the note about what was left out, at most.
const NOTE: usize = 60;

fuzz_target!(|reply: &str| {
    let languages = ["bash".to_owned()];
    let form = Canonical::of(reply, &languages).text();
    assert_eq!(Canonical::of(&form, &languages).text(), form);
    for reply_chars in [Budget::default().reply_chars, 200] {
        let budget = Budget { reply_chars, ..Budget::default() };
        let defence = Defence { budget, fence: FENCE.into(), sign: String::new() };
        let shown = defence.reply(reply, View::Whole).text;
        for hidden in [FENCE, "<|im_end|>", "[INST]", "</s>", "\u{200b}", "\u{202e}", "\u{e0041}"] {
            assert!(!shown.contains(hidden), "{hidden:?}");
        }
        assert!(shown.chars().count() <= reply_chars + NOTE);
    }
});
