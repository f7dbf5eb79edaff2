//! Why a reply ended, in the words of real servers.

use albedo_core::FinishReason;

/// What a server's word for the end of a reply means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The reply ended for this reason; [`FinishReason::Unknown`] where something
    /// else than the model or the limit ended it, such as a content filter.
    Finished(FinishReason),
    /// The provider broke the reply off: there is none.
    BrokenOff,
}

use Ending::{BrokenOff, Finished};

const STOP: Ending = Finished(FinishReason::Stop);
const LENGTH: Ending = Finished(FinishReason::Length);
/// The provider ended the reply for what it holds.
const FILTERED: Ending = Finished(FinishReason::Unknown);

/// Words in lower case and without `_`, `-` and spaces, with those who use them.
const WORDS: [(&str, Ending); 41] = [
    // OpenAI and all that follow it.
    ("stop", STOP),
    ("length", LENGTH),
    ("toolcalls", STOP),
    ("functioncall", STOP),
    ("contentfilter", FILTERED),
    // Anthropic.
    ("endturn", STOP),
    ("stopsequence", STOP),
    ("maxtokens", LENGTH),
    ("tooluse", STOP),
    ("refusal", STOP),
    ("modelcontextwindowexceeded", LENGTH),
    // Google: also as FINISH_REASON_STOP.
    ("finishreasonstop", STOP),
    ("finishreasonmaxtokens", LENGTH),
    ("safety", FILTERED),
    ("recitation", FILTERED),
    ("blocklist", FILTERED),
    ("prohibitedcontent", FILTERED),
    // Text generation servers: Hugging Face, llama.cpp, Together, Cohere.
    ("eos", STOP),
    ("eostoken", STOP),
    ("stoptoken", STOP),
    ("endoftext", STOP),
    ("complete", STOP),
    ("completed", STOP),
    ("limit", LENGTH),
    ("maxlength", LENGTH),
    ("maxnewtokens", LENGTH),
    ("maxoutputtokens", LENGTH),
    ("outputtokenlimit", LENGTH),
    // Mistral.
    ("modellength", LENGTH),
    // GLM.
    ("sensitive", FILTERED),
    ("networkerror", BrokenOff),
    // DeepSeek.
    ("insufficientsystemresource", BrokenOff),
    // vLLM and SGLang, OpenRouter.
    ("abort", BrokenOff),
    ("aborted", BrokenOff),
    ("cancelled", BrokenOff),
    ("canceled", BrokenOff),
    ("error", BrokenOff),
    ("servererror", BrokenOff),
    ("failed", BrokenOff),
    ("timeout", BrokenOff),
    ("errortoxic", FILTERED),
];

/// What `word` means; `None` for one that is unknown, which means nothing.
pub(super) fn ending(word: &str) -> Option<Ending> {
    let plain: String = word.chars().filter(char::is_ascii_alphanumeric).collect();
    let plain = plain.to_ascii_lowercase();
    WORDS.iter().find(|(known, _)| *known == plain).map(|(_, ending)| *ending)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_count_in_every_spelling_and_unknown_ones_mean_nothing() {
        for word in ["stop", "STOP", "eos_token", "end_turn", "FINISH_REASON_STOP", "EOS", "COMPLETE"] {
            assert_eq!(ending(word), Some(STOP), "{word}");
        }
        for word in ["length", "MAX_TOKENS", "max-length", "model_length", "max_output_tokens"] {
            assert_eq!(ending(word), Some(LENGTH), "{word}");
        }
        assert_eq!(ending("content_filter"), Some(FILTERED));
        assert_eq!(ending("abort"), Some(BrokenOff));
        for word in ["", " ", "null", "unspecified", "FINISH_REASON_UNSPECIFIED", "stopped?!no"] {
            assert_eq!(ending(word), None, "{word}");
        }
    }
}
