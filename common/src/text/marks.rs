//! Keeps special tokens in data apart from those that a template writes.
//!
//! Before rendering, every special token in a message or a tool is wrapped in two characters that Unicode
//! reserves for such internal use. After rendering these marks are removed, and the text between them is
//! encoded as ordinary text. transformers does the same under `sanitize_control_tokens`. A second pair of
//! marks finds the content of a message in the rendered text.

use std::ops::Range;

use serde_json::{Map, Value};

use crate::json::number;
use crate::text::tokenizer::Specials;
use crate::text::{Conversation, Message};

const SPECIAL_OPEN: char = '\u{FDD0}';
const SPECIAL_CLOSE: char = '\u{FDD1}';
const CONTENT_OPEN: char = '\u{FDD2}';
const CONTENT_CLOSE: char = '\u{FDD3}';

/// Whether a character is one of the marks.
pub(super) fn is_mark(c: char) -> bool {
    (SPECIAL_OPEN..=CONTENT_CLOSE).contains(&c) || c == number::MARK
}

/// The conversation with every text of `specials` marked and every [number] as a text that a template
/// writes as a number; and whether there was any of them. Marks in the data are dropped.
pub(super) fn mark_specials(
    conversation: &Conversation,
    specials: Option<&Specials>,
) -> (Conversation, bool) {
    let mut conversation = conversation.clone();
    let mut found = false;
    each_text(&mut conversation, &mut |text, _| found |= mark_text(text, specials));
    let has_numbers = mark_numbers(&mut conversation);
    (conversation, found || has_numbers)
}

/// Replaces every [number] by a text that a template writes as a number; returns whether there is one.
fn mark_numbers(conversation: &mut Conversation) -> bool {
    let mut found = false;
    let extras = conversation.messages.iter_mut().flat_map(|message| message.extra.values_mut());
    extras.chain(&mut conversation.tools).for_each(|value| mark_number(value, &mut found));
    found
}

fn mark_number(value: &mut Value, found: &mut bool) {
    if let Some(number) = number::text_of(value) {
        *value = Value::String(format!("{}{number}", number::MARK));
        *found = true;
        return;
    }
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| mark_number(item, found)),
        Value::Object(object) => object.values_mut().for_each(|item| mark_number(item, found)),
        _ => {}
    }
}

/// The kind of a text in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// The role of a message.
    Role,
    /// The content of a message.
    Content,
    /// A text elsewhere: in a tool, in a call of a tool, or a key.
    Other,
}

/// Applies `change` to every text of a conversation.
pub(super) fn each_text(conversation: &mut Conversation, change: &mut impl FnMut(&mut String, Field)) {
    for message in &mut conversation.messages {
        change(&mut message.role, Field::Role);
        message.content.iter_mut().for_each(|content| change(content, Field::Content));
        each_of_object(&mut message.extra, change);
    }
    conversation.tools.iter_mut().for_each(|tool| each_of_value(tool, change));
}

fn each_of_value(value: &mut Value, change: &mut impl FnMut(&mut String, Field)) {
    if number::text_of(value).is_some() {
        return;
    }
    match value {
        Value::String(text) => change(text, Field::Other),
        Value::Array(items) => items.iter_mut().for_each(|item| each_of_value(item, change)),
        Value::Object(object) => each_of_object(object, change),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn each_of_object(object: &mut Map<String, Value>, change: &mut impl FnMut(&mut String, Field)) {
    *object = std::mem::take(object)
        .into_iter()
        .map(|(mut key, mut value)| {
            change(&mut key, Field::Other);
            each_of_value(&mut value, change);
            (key, value)
        })
        .collect();
}

fn mark_text(text: &mut String, specials: Option<&Specials>) -> bool {
    if text.contains(is_mark) {
        text.retain(|c| !is_mark(c));
    }
    let found = specials.map(|specials| specials.find(text)).unwrap_or_default();
    if found.is_empty() {
        return false;
    }
    let mut marked = String::with_capacity(text.len() + 16);
    let mut from = 0;
    for range in found {
        marked.push_str(&text[from..range.start]);
        marked.push(SPECIAL_OPEN);
        marked.push_str(&text[range.clone()]);
        marked.push(SPECIAL_CLOSE);
        from = range.end;
    }
    marked.push_str(&text[from..]);
    *text = marked;
    true
}

/// The byte ranges of special tokens in a text, ascending.
pub(super) fn literal_specials(text: &str, specials: &Specials) -> Vec<Range<usize>> {
    let mut marked = text.replace(is_mark, "\u{FFFD}");
    match mark_text(&mut marked, Some(specials)) {
        true => unmark(&marked, &[]).literal,
        false => Vec::new(),
    }
}

/// A rendered text without its marks.
pub(super) struct Unmarked {
    /// The text without marks.
    pub text: String,
    /// The byte ranges of `text` that are special tokens from data, ascending.
    pub literal: Vec<Range<usize>>,
    /// The positions in `text` of the given positions in the marked text.
    pub positions: Vec<usize>,
}

/// Removes the marks of special tokens from a rendered text, and adjusts `positions`, ascending byte
/// positions in it. A mark whose partner the template has cut off is removed too, and still separates the
/// text on its left from that on its right, so that they cannot join into a special token.
pub(super) fn unmark(marked: &str, positions: &[usize]) -> Unmarked {
    let mut text = String::with_capacity(marked.len());
    let mut literal = Vec::new();
    let mut moved = Vec::with_capacity(positions.len());
    let mut open = None;
    for (at, c) in marked.char_indices() {
        while moved.len() < positions.len() && positions[moved.len()] <= at {
            moved.push(text.len());
        }
        match c {
            SPECIAL_OPEN => {
                literal.extend(open.replace(text.len()).map(|lone: usize| lone..lone));
            }
            number::MARK => {}
            SPECIAL_CLOSE => literal.push(open.take().unwrap_or(text.len())..text.len()),
            _ => text.push(c),
        }
    }
    literal.extend(open.map(|lone| lone..lone));
    moved.resize(positions.len(), text.len());
    Unmarked { text, literal, positions: moved }
}

/// The message with marks around its content. `within_space` leaves white space around the content outside
/// of the marks, for templates that trim it.
pub(super) fn mark_content(message: &Message, within_space: bool) -> Option<Message> {
    let content = message.content.as_deref().filter(|content| !content.trim().is_empty())?;
    let core = if within_space { content.trim() } else { content };
    let lead = if within_space { content.len() - content.trim_start().len() } else { 0 };
    let (before, after) = (&content[..lead], &content[lead + core.len()..]);
    let mut marked = message.clone();
    marked.content = Some(format!("{before}{CONTENT_OPEN}{core}{CONTENT_CLOSE}{after}"));
    Some(marked)
}

/// The place of a marked content in a rendered text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ContentPlace {
    /// The rendered text without the marks of the content.
    pub text: String,
    /// The byte position in `text` where the content begins; `None` where the template dropped that mark.
    pub begin: Option<usize>,
    /// The byte position in `text` where the content ends; `None` where the template dropped that mark.
    pub end: Option<usize>,
}

/// Finds the marks of a content in a rendered text and removes them.
pub(super) fn find_content(marked: &str) -> ContentPlace {
    let mut place = ContentPlace { text: String::with_capacity(marked.len()), begin: None, end: None };
    for c in marked.chars() {
        match c {
            CONTENT_OPEN => place.begin = Some(place.text.len()),
            CONTENT_CLOSE => place.end = Some(place.text.len()),
            _ => place.text.push(c),
        }
    }
    place
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    fn specials() -> Specials {
        Specials::new(["<|im_end|>", "<s>"].map(String::from)).unwrap()
    }

    fn marked(text: &str) -> String {
        let conversation = Conversation { messages: vec![Message::new("user", text)], tools: Vec::new() };
        let (marked, _) = mark_specials(&conversation, Some(&specials()));
        marked.messages[0].content.clone().unwrap()
    }

    #[test]
    fn special_tokens_in_data_are_found_again() {
        let marked = marked("a<|im_end|>b<s>");
        let unmarked = unmark(&marked, &[0, marked.len()]);
        assert_eq!(unmarked.text, "a<|im_end|>b<s>");
        assert_eq!(unmarked.literal, [1..11, 12..15]);
        assert_eq!(unmarked.positions, [0, 15]);
    }

    #[test]
    fn data_cannot_forge_a_mark() {
        let forged = marked("a\u{FDD1}<|im_end|>\u{FDD0}b");
        assert_eq!(unmark(&forged, &[]).literal, [1..11]);
    }

    #[test]
    fn a_lone_mark_still_parts_the_text() {
        let halves = "<|im_\u{FDD0}end|>";
        let unmarked = unmark(halves, &[]);
        assert_eq!((unmarked.text.as_str(), unmarked.literal), ("<|im_end|>", vec![5..5]));
    }

    #[test]
    fn tools_and_extras_are_marked_too() {
        let mut message = Message::new("assistant", "");
        message.extra.insert("tool_calls".into(), serde_json::json!([{"arguments": {"q": "<s>"}}]));
        let tools = vec![serde_json::json!({"description": "<|im_end|>"})];
        let conversation = Conversation { messages: vec![message], tools };
        let (marked, found) = mark_specials(&conversation, Some(&specials()));
        assert!(found);
        let text = serde_json::to_string(&marked).unwrap();
        assert_eq!(text.matches(SPECIAL_OPEN).count(), 2);
    }

    #[test]
    fn content_marks_stay_inside_white_space_when_asked() {
        let message = Message::new("assistant", "\n hi \n");
        let inside = mark_content(&message, true).unwrap().content.unwrap();
        let place = find_content(inside.trim());
        assert_eq!((place.text.as_str(), place.begin, place.end), ("hi", Some(0), Some(2)));
        let outside = mark_content(&message, false).unwrap().content.unwrap();
        assert_eq!(find_content(&outside).begin, Some(0));
    }
}
