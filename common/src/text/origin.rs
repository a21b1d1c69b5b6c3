//! Tells which characters of a rendered text come from data, so that data never becomes a special token.
//!
//! [`marks`](super::marks) finds special tokens that data holds literally. But a template may form one
//! from harmless data, by `lower`, by joining two fields, by cutting one at `</think>`; and so may a
//! tokenizer that normalizes `＜` to `<`. So the conversation is rendered once more with every character of
//! data replaced by one from a part of Unicode that has no meaning and no case. Wherever such a character
//! is in the result, the text comes from data; and a special token that contains data is encoded as
//! ordinary text.
//!
//! A template that inspects data, as by `startswith('<tool_call>')`, may write something else for other
//! characters. Then fewer characters are replaced, until it writes the same text: first all except those
//! in texts that the template itself mentions, then letters and digits only, then the other signs only.

use std::collections::HashMap;
use std::ops::Range;

use crate::text::marks::{self, Field};
use crate::text::template::Words;
use crate::text::tokenizer::{Tokenizer, Tokens};
use crate::text::{ChatTemplate, Conversation};
use crate::{Result, bail};

/// The first replacement character. The private use areas of planes 15 and 16 serve for them.
const FIRST: u32 = 0xF_0000;
const ROLES: [&str; 8] =
    ["system", "user", "assistant", "tool", "function", "developer", "observation", "ipython"];
/// Most times that a text is encoded again because data in it became a special token.
const ROUNDS: usize = 64;

/// The parts of a text that come from data.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    /// The byte ranges that come from data, ascending.
    data: Vec<Range<usize>>,
    /// The classes of characters for which `data` is complete.
    knows: Classes,
}

/// Two classes of characters: letters and digits, and the other signs. White space is in neither.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Classes {
    letters: bool,
    signs: bool,
}

impl Classes {
    const ALL: Self = Self { letters: true, signs: true };

    fn has(self, c: char) -> bool {
        // JSON writes quotes, backslashes and control characters otherwise.
        let is_plain =
            !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '\\') && !marks::is_mark(c);
        is_plain && if c.is_alphanumeric() { self.letters } else { self.signs }
    }
}

/// The choice of characters that are replaced in one rendering.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    classes: Classes,
    /// Whether texts that the template mentions are left as they are.
    spares_words: bool,
    /// Whether only contents of messages are replaced, and nothing in tools and calls.
    contents_only: bool,
}

/// The attempts, from replacing everything to little. The first suffices for nearly every template.
const ATTEMPTS: [Attempt; 7] = {
    const fn attempt(letters: bool, signs: bool, spares_words: bool, contents_only: bool) -> Attempt {
        Attempt { classes: Classes { letters, signs }, spares_words, contents_only }
    }
    [
        attempt(true, true, false, false),
        attempt(true, true, true, false),
        attempt(false, true, false, false),
        attempt(false, true, true, false),
        attempt(true, false, true, false),
        attempt(true, true, true, true),
        attempt(false, true, true, true),
    ]
};

/// The answer of [`Origin::of`] about a special token.
enum Verdict {
    Template,
    Data,
    Unknown,
}

impl Origin {
    /// The origin of a text that is all data.
    pub(super) fn data(text: &str) -> Self {
        Self { data: std::iter::once(0..text.len()).collect(), knows: Classes::ALL }
    }

    /// The origin of the text that `template` renders from a conversation whose special tokens are marked.
    pub(super) fn rendered(
        template: &ChatTemplate,
        marked: &Conversation,
        rendered: &str,
        add_generation_prompt: bool,
    ) -> Self {
        let mut origin = Self::default();
        for attempt in ATTEMPTS {
            let Attempt { classes, .. } = attempt;
            let is_news =
                (classes.letters && !origin.knows.letters) || (classes.signs && !origin.knows.signs);
            if !is_news {
                continue;
            }
            let mut replaced = Replaced::new(attempt, template.words());
            let conversation = replaced.conversation(marked);
            let Ok(text) =
                template.render(&conversation.messages, &conversation.tools, add_generation_prompt)
            else {
                continue;
            };
            if let Some(data) = replaced.places(rendered, &text) {
                origin.knows.letters |= classes.letters;
                origin.knows.signs |= classes.signs;
                origin.data = merged(std::mem::take(&mut origin.data), data);
            }
        }
        origin
    }

    /// Whether the template or data wrote the characters in `range` of `text`.
    fn of(&self, text: &str, range: &Range<usize>) -> Verdict {
        let next = self.data.partition_point(|data| data.end <= range.start);
        if self.data.get(next).is_some_and(|data| data.start < range.end) {
            return Verdict::Data;
        }
        match text[range.clone()].chars().any(|c| self.knows.has(c)) {
            true => Verdict::Template,
            false => Verdict::Unknown,
        }
    }
}

/// Encodes a text of known origin, so that nothing from data becomes a special token. `literal` and `cuts`
/// are those of [`Tokenizer::encode_rendered`].
pub(super) fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    literal: &[Range<usize>],
    cuts: &[usize],
    origin: impl FnOnce() -> Origin,
) -> Result<Tokens> {
    let mut literal = literal.to_vec();
    let mut tokens = tokenizer.encode_rendered(text, &literal, cuts)?;
    let specials = |tokens: &Tokens| tokens.ids.iter().any(|&id| tokenizer.is_control(id));
    if !specials(&tokens) {
        return Ok(tokens);
    }
    let origin = origin();
    for _ in 0..ROUNDS {
        let mut forged = Vec::new();
        for (&id, range) in tokens.ids.iter().zip(&tokens.offsets) {
            if !tokenizer.is_control(id) {
                continue;
            }
            // Special tokens may take the white space around them along.
            let taken = &text[range.clone()];
            let begin = range.start + taken.len() - taken.trim_start().len();
            match origin.of(text, &(begin..begin + taken.trim().len())) {
                Verdict::Template => {}
                Verdict::Data => forged.push(range.clone()),
                Verdict::Unknown if taken.trim().is_empty() => {}
                Verdict::Unknown => bail!(
                    Row,
                    "the chat template changes texts so that {:?} in them cannot be told from its own",
                    taken.trim()
                ),
            }
        }
        if forged.is_empty() {
            return Ok(tokens);
        }
        literal = merged(literal, forged);
        tokens = tokenizer.encode_rendered(text, &literal, cuts)?;
    }
    bail!(Row, "the tokenizer makes special tokens of a text, however it is split")
}

/// Merges two lists of ranges into one, ascending and without overlaps.
fn merged(mut ranges: Vec<Range<usize>>, more: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.extend(more);
    ranges.sort_by_key(|range| (range.start, range.end));
    let mut merged: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

/// Replaces the characters of a conversation.
struct Replaced<'a> {
    attempt: Attempt,
    words: &'a Words,
    /// Texts of the template that are left as they are, by their first character.
    spared: HashMap<char, Vec<&'a str>>,
    stand_ins: HashMap<char, char>,
    originals: Vec<char>,
}

impl<'a> Replaced<'a> {
    fn new(attempt: Attempt, words: &'a Words) -> Self {
        let mut spared: HashMap<char, Vec<&str>> = HashMap::new();
        for text in words.texts.iter().filter(|_| attempt.spares_words) {
            if let Some(first) = text.chars().next() {
                spared.entry(first).or_default().push(text);
            }
        }
        Self { attempt, words, spared, stand_ins: HashMap::new(), originals: Vec::new() }
    }

    fn conversation(&mut self, conversation: &Conversation) -> Conversation {
        let mut conversation = conversation.clone();
        marks::each_text(&mut conversation, &mut |text, field| {
            // The template may compare with texts that equal a name or a text in it.
            let is_word = || self.words.names.contains(text) || self.words.texts.contains(text);
            let stays = match field {
                Field::Role => ROLES.contains(&text.as_str()) || self.attempt.contents_only || is_word(),
                Field::Content => false,
                Field::Other => self.attempt.contents_only || is_word(),
            };
            if !stays {
                *text = self.text(text);
            }
        });
        conversation
    }

    fn text(&mut self, text: &str) -> String {
        let mut replaced = String::with_capacity(text.len() * 2);
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let spared = self.spared.get(&c).into_iter().flatten().filter(|word| rest.starts_with(**word));
            if let Some(longest) = spared.map(|word| word.len()).max() {
                replaced.push_str(&rest[..longest]);
                rest = &rest[longest..];
                continue;
            }
            replaced.push(if self.attempt.classes.has(c) { self.stand_in(c) } else { c });
            rest = &rest[c.len_utf8()..];
        }
        replaced
    }

    fn stand_in(&mut self, c: char) -> char {
        let next = char::from_u32(FIRST + self.originals.len() as u32);
        *self.stand_ins.entry(c).or_insert_with(|| {
            next.map_or(c, |next| {
                self.originals.push(c);
                next
            })
        })
    }

    /// The byte ranges of `rendered`, marks not counted, where `text` has replacements of its characters.
    /// `None` where the texts differ in any other way.
    fn places(&self, rendered: &str, text: &str) -> Option<Vec<Range<usize>>> {
        let mut places: Vec<Range<usize>> = Vec::new();
        let mut at = 0;
        let mut others = text.chars();
        for c in rendered.chars() {
            let other = others.next()?;
            if other != c {
                let index = u32::from(other).checked_sub(FIRST)? as usize;
                if self.originals.get(index) != Some(&c) {
                    return None;
                }
                match places.last_mut().filter(|place| place.end == at) {
                    Some(place) => place.end += c.len_utf8(),
                    None => places.push(at..at + c.len_utf8()),
                }
            }
            if !marks::is_mark(c) {
                at += c.len_utf8();
            }
        }
        others.next().is_none().then_some(places)
    }
}
