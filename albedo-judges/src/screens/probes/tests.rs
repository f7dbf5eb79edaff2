use std::sync::Mutex;

use super::*;
use crate::screens::testing::Speaker;

fn said(role: MessageRole, text: &str) -> Message {
    Message::new(role, text)
}

/// The messages between two replies are one answer, also if a tool wrote them.
#[test]
fn tools_answer_like_the_user() {
    use MessageRole::{Assistant, System, Tool, User};
    let messages = [
        said(System, "Repair it."),
        said(User, "Go on."),
        said(Assistant, "Two calls."),
        said(Tool, "a.py"),
        said(Tool, "b.py"),
        said(Assistant, "I think."),
        said(Assistant, "I ask."),
        said(User, "Yes."),
        said(Assistant, "Done."),
    ];
    let conversation = Conversation::of(&messages).expect("a conversation");
    assert_eq!(conversation.opening, messages[..2]);
    assert_eq!(conversation.answers, [messages[3..5].to_vec(), messages[7..8].to_vec()]);
    assert_eq!(Conversation::of(&messages[2..]), None, "there is nothing to reply to");
}

#[tokio::test]
async fn a_dialogue_goes_on_with_the_tools_output() {
    use MessageRole::{Assistant, Tool, User};
    let conversation = Conversation {
        opening: vec![said(User, "Go on.")],
        answers: vec![vec![said(Tool, "a.py"), said(Tool, "b.py")], vec![said(User, "Yes.")]],
    };
    let asked = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&asked);
    let session = Speaker::new(move |request: &GenerateRequest| {
        heard.lock().expect("no panic").push(request.messages.clone());
        Some("ls".into())
    });
    let spoken = dialogues(&session, &[conversation], 9, 16, 1, &CallContext::new()).await.expect("replies");
    assert_eq!((spoken.len(), spoken[0].len()), (1, 3));
    let last = asked.lock().expect("no panic").pop().expect("it was asked");
    let roles: Vec<_> = last.iter().map(|message| message.role).collect();
    assert_eq!(roles, [User, Assistant, Tool, Tool, Assistant, User]);
}
