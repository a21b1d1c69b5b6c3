//! Finds the assistant turns in the text that a template makes of a conversation.

use std::cell::Cell;
use std::ops::Range;

use crate::text::conversation::THOUGHT;
use crate::text::marks::{self, find_content, mark_content};
use crate::text::{ChatTemplate, Conversation, Message};
use crate::{Result, bail};

/// Most messages that may be rendered to find the turns of one conversation.
const WORK: usize = 4_000_000;

/// Finds the assistant turns in a rendered conversation.
pub(super) struct Turns<'a> {
    template: &'a ChatTemplate,
    conversation: &'a Conversation,
    rendered: &'a str,
    /// The number of messages that were rendered to find the turns.
    work: Cell<usize>,
}

impl<'a> Turns<'a> {
    /// The search in `rendered`, the text of `template` for `conversation` without a generation prompt.
    pub(super) fn new(template: &'a ChatTemplate, conversation: &'a Conversation, rendered: &'a str) -> Self {
        Self { template, conversation, rendered, work: Cell::new(0) }
    }

    /// The byte ranges of the assistant turns in `rendered`, ascending, up to the first that begins after
    /// `enough`.
    pub(super) fn find(&self, enough: usize) -> Result<Vec<Range<usize>>> {
        let messages = &self.conversation.messages;
        let mut turns: Vec<Range<usize>> = Vec::new();
        for (index, message) in messages.iter().enumerate().filter(|(_, m)| m.is_assistant()) {
            let begin = self.begin(index, message);
            let found = begin.and_then(|begin| Some(begin..self.end(index, message, begin)?));
            if self.work.get() > WORK {
                bail!(
                    Row,
                    "{} messages, whose turns cannot be found in the chat template's text in reasonable time",
                    messages.len()
                );
            }
            let after = turns.last().map_or(0, |turn| turn.end);
            match found {
                Some(turn) if after <= turn.start && turn.start <= turn.end => {
                    turns.push(turn.clone());
                    if turn.start > enough {
                        break;
                    }
                }
                _ => bail!(
                    Unsupported,
                    "the chat template rewrites message {}, an assistant turn, so that it cannot be found in the text",
                    index + 1
                ),
            }
        }
        Ok(turns)
    }

    fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Option<String> {
        self.work.set(self.work.get() + messages.len());
        // A template may refuse a part of a conversation that it accepts as a whole.
        self.template.render(messages, &self.conversation.tools, add_generation_prompt).ok()
    }

    /// The length of `part`, if the rendered conversation begins with it.
    fn prefix(&self, part: Option<String>) -> Option<usize> {
        part.filter(|part| self.rendered.starts_with(part.as_str())).map(|part| part.len())
    }

    fn begin(&self, index: usize, message: &Message) -> Option<usize> {
        let before = &self.conversation.messages[..index];
        let prompt = self.render(before, true);
        let begin = self.prefix(prompt.clone());
        let content = message.content.as_deref().unwrap_or_default().trim();
        if let Some(begin) = begin {
            let follows = !content.is_empty() && self.rendered[begin..].trim_start().starts_with(content);
            // Without a generation prompt, the text up to the content is the template's, not the
            // model's.
            if follows || prompt != self.render(before, false) {
                return Some(begin);
            }
        }
        let place = self.place(index).and_then(|(place, _)| place.begin);
        place.map(|place| self.after_prompt(place, prompt.as_deref())).or(begin).or_else(|| {
            // A template that drops the thought of an answer may drop the tag that the prompt opens.
            let (opening, _) = prompt.as_deref()?.rsplit_once(THOUGHT.0)?;
            let begin = self.prefix(Some(opening.to_owned()))?;
            self.prefix(self.render(before, false)).is_some_and(|end| end < begin).then_some(begin)
        })
    }

    /// The beginning of a turn whose content begins at `content`: white space before it that the prompt does not end
    /// with, as after Mistral's `[/INST]`, is the model's.
    fn after_prompt(&self, content: usize, prompt: Option<&str>) -> usize {
        let head = self.rendered[..content].trim_end();
        let (Some(prompt), Some(word)) = (prompt, head.split_whitespace().next_back()) else {
            return content;
        };
        let prompt_word = prompt.split_whitespace().next_back();
        if !prompt_word.is_some_and(|other| word.ends_with(other) || other.ends_with(word)) {
            return content;
        }
        let space = &prompt[prompt.trim_end().len()..];
        match self.rendered[head.len()..content].starts_with(space) {
            true => head.len() + space.len(),
            false => content,
        }
    }

    fn end(&self, index: usize, message: &Message, begin: usize) -> Option<usize> {
        let upto = &self.conversation.messages[..=index];
        if index + 1 == self.conversation.messages.len() {
            return Some(self.rendered.len());
        }
        let as_last = self.render(upto, false);
        if let Some(end) = self.prefix(as_last.clone()) {
            return Some(end);
        }
        // What the template closes the turn with when it is the last one is what it has in common
        // with the text after the content here.
        let eos = self.template.eos_token().unwrap_or_default();
        let Some((place, within_space)) = self.place(index) else {
            // Without content, as a call of a tool: the turn is the most of the text here that the text of
            // the last turn ends with, which the end of the whole conversation may follow.
            let (rest, as_last) = (&self.rendered[begin..], as_last?);
            let longest = |ending: &str| {
                let lengths = rest.char_indices().map(|(at, c)| at + c.len_utf8());
                let lengths = lengths.take_while(|&len| len <= ending.len());
                lengths.filter(|&len| ending.ends_with(&rest[..len])).last()
            };
            return longest(&as_last).or_else(|| longest(as_last.strip_suffix(eos)?)).map(|len| begin + len);
        };
        let end = place.end?;
        let mut last = upto.to_vec();
        last[index] = mark_content(message, within_space)?;
        let last = find_content(&self.render(&last, false)?);
        let closing = &last.text[last.end?..];
        let shared = common_prefix(closing, &self.rendered[end..]);
        // An end of text that only the whole conversation has, as in Phi-3's template, may begin like the next turn.
        let cut_eos =
            closing.match_indices(eos).map(|(at, _)| at).find(|&at| at < shared && shared < at + eos.len());
        Some(end + cut_eos.unwrap_or(shared))
    }

    /// The place of a message's content, and whether its marks had to be put within its white space. `None`
    /// where marks change what the template writes.
    fn place(&self, index: usize) -> Option<(marks::ContentPlace, bool)> {
        [false, true].into_iter().find_map(|within_space| {
            let mut messages = self.conversation.messages.clone();
            messages[index] = mark_content(&messages[index], within_space)?;
            let place = find_content(&self.render(&messages, false)?);
            (place.text == self.rendered).then_some((place, within_space))
        })
    }
}

fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}
