//! Cutting texts to a budget of characters.

use albedo_core::{Message, MessageRole};

/// `text`, or its first two thirds and last third of `budget` characters around
/// a note of how many are missing; whether it was cut.
pub(super) fn head_and_tail(text: &str, budget: usize) -> (String, bool) {
    let length = text.chars().count();
    if length <= budget {
        return (text.to_owned(), false);
    }
    let tail = budget / 3;
    let head = budget - tail;
    let byte = |character| text.char_indices().nth(character).map_or(text.len(), |(byte, _)| byte);
    let (before, after) = (&text[..byte(head)], &text[byte(length - tail)..]);
    (format!("{before}⟨{} characters left out⟩{after}", length - budget), true)
}

/// See [`super::Defence::conversation`].
pub(super) fn conversation(messages: &[Message], budget: usize, shown: impl Fn(&str) -> String) -> String {
    let block = |message: &Message, budget: usize| {
        let (text, _) = head_and_tail(&shown(&message.content), budget);
        format!("[{}]\n{text}", message.role.as_str())
    };
    let first = |role| messages.iter().position(|message| message.role == role);
    let mut kept: Vec<_> =
        [first(MessageRole::System), first(MessageRole::User)].into_iter().flatten().collect();
    kept.sort_unstable();
    let mut blocks: Vec<_> = kept.iter().map(|&place| (place, block(&messages[place], budget / 4))).collect();
    let length = |block: &str| block.chars().count();
    let mut left = budget.saturating_sub(blocks.iter().map(|(_, block)| length(block)).sum());
    let opening = blocks.len();
    for (place, message) in messages.iter().enumerate().rev() {
        if kept.contains(&place) {
            continue;
        }
        let whole = block(message, usize::MAX);
        if length(&whole) <= left {
            left -= length(&whole);
            blocks.push((place, whole));
        } else if blocks.len() == opening {
            blocks.push((place, block(message, left)));
            left = 0;
        } else {
            break;
        }
    }
    blocks.sort_unstable_by_key(|(place, _)| *place);
    let mut text = String::new();
    let mut next = 0;
    for (place, block) in blocks {
        match place - next {
            0 => {}
            left_out => text.extend(["⟨", &left_out.to_string(), " messages left out⟩\n\n"]),
        }
        text.push_str(&block);
        text.push_str("\n\n");
        next = place + 1;
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(role: MessageRole, content: &str) -> Message {
        Message::new(role, content)
    }

    #[test]
    fn a_short_text_stays_and_a_long_one_loses_its_middle() {
        assert_eq!(head_and_tail("äbc", 3), ("äbc".into(), false));
        assert_eq!(head_and_tail("äbcdefghi", 6), ("äbcd⟨3 characters left out⟩hi".into(), true));
    }

    #[test]
    fn the_rules_the_task_and_the_last_turns_are_kept() {
        let messages: Vec<_> = [
            (MessageRole::System, "rules"),
            (MessageRole::User, "task"),
            (MessageRole::Assistant, "one"),
            (MessageRole::User, "two"),
            (MessageRole::Assistant, "three"),
            (MessageRole::User, "four"),
        ]
        .map(|(role, text)| message(role, text))
        .into();
        let whole = conversation(&messages, 1000, str::to_owned);
        assert!(
            whole.starts_with("[system]\nrules\n\n[user]\ntask\n\n[assistant]\none\n\n[user]\ntwo"),
            "{whole}"
        );
        let cut = conversation(&messages, 60, str::to_owned);
        assert_eq!(
            cut,
            "[system]\nrules\n\n[user]\ntask\n\n⟨2 messages left out⟩\n\n[assistant]\nthree\n\n[user]\nfour"
        );
    }

    proptest! {
        #[test]
        fn a_conversation_keeps_within_its_budget(
            texts in proptest::collection::vec((0..4_usize, "[a-zé\n]{0,80}"), 0..12),
            budget in 200..400_usize,
        ) {
            use MessageRole::{Assistant, System, Tool, User};
            let messages: Vec<_> =
                texts.iter().map(|(role, text)| message([System, User, Assistant, Tool][*role], text)).collect();
            let shown = conversation(&messages, budget, str::to_owned);
            // Notes and blank lines come on top.
            let notes = 40 * (messages.len() + 3);
            prop_assert!(shown.chars().count() <= budget + notes, "{shown}");
        }
    }
}
