//! Encodes a conversation as tokens, and marks those that are supervised (trained).
//!
//! Every assistant turn is supervised: its content and the text that the template closes it with, in
//! ChatML `<|im_end|>` and the newline after it. Turns are found by their position in the rendered text,
//! never by token ids, so that a pad token which equals the end token does no harm and data cannot forge
//! a turn:
//!
//! - a turn begins where the text of the messages before it ends, rendered with the generation prompt,
//!   which is exactly what the model is given when it has to answer;
//! - it ends where the text of the messages up to it ends, or with the special token of the next turn where
//!   the template closes answers with none.
//!
//! Some templates write a turn differently once others follow (they drop its reasoning, say). Then the
//! turn is found by rendering the conversation once more with marks around its content.
//!
//! The rendered text is encoded as a whole, so the ids are those of transformers'
//! `apply_chat_template(tokenize=True)`. Only where a token would reach across the beginning of a turn is
//! the text cut there, as it is when the model answers.

use std::cell::Cell;
use std::ops::Range;

use crate::text::conversation::THOUGHT;
use crate::text::marks::{self, find_content, mark_content};
use crate::text::origin::{self, Origin};
use crate::text::{ChatTemplate, Conversation, Message, Tokenizer, cutoff};
use crate::{Result, bail};

/// The number of messages above which turns are searched only as far as the cutoff reaches, because each
/// turn takes the rendering of all messages before it.
const LONG: usize = 64;
/// Most messages that may be rendered to find the turns of one conversation.
const WORK: usize = 4_000_000;

/// The tokens of one conversation, and which of them are supervised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Example {
    /// The token ids, in order.
    pub tokens: Vec<u32>,
    /// Whether each token is supervised: predicting it counts in the loss.
    pub trained: Vec<bool>,
}

impl Example {
    /// The number of supervised tokens, without the first token of the example, which the model cannot
    /// predict because nothing comes before it.
    pub fn supervised(&self) -> usize {
        self.trained.iter().skip(1).filter(|&&trained| trained).count()
    }
}

/// The options of encoding a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelOptions {
    /// The most tokens of an example.
    pub cutoff_len: usize,
    /// Whether prompts are supervised too.
    pub train_on_prompt: bool,
    /// Whether only the last answer is supervised, which then is also shortened last.
    pub mask_history: bool,
    /// Whether the text of a special token in data is encoded as ordinary text instead of as that token.
    pub split_special_tokens: bool,
}

impl LabelOptions {
    /// The options under which all answers and nothing else are supervised, in at most `cutoff_len` tokens.
    pub fn answers(cutoff_len: usize) -> Self {
        Self { cutoff_len, train_on_prompt: false, mask_history: false, split_special_tokens: true }
    }
}

/// An encoded conversation, and counts of what was changed in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The tokens that are left after the cutoff.
    pub example: Example,
    /// The number of answers that lost some or all tokens to the cutoff.
    pub shortened_answers: usize,
    /// The number of answers that lost the token that ends them.
    pub endless_answers: usize,
    /// Whether data held the text of a special token, which was encoded as ordinary text.
    pub has_special_text: bool,
    /// The number of answers that the data excludes from the loss.
    pub masked_answers: usize,
    /// The number of answers that are not supervised because they call tools, which the template omits.
    pub unwritten_calls: usize,
}

/// Encodes a conversation and marks its supervised tokens.
///
/// Fails where there is no assistant turn, where the template refuses the conversation, and where it
/// rewrites an assistant turn so that it cannot be found in the text.
pub fn encode_conversation(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    conversation: &Conversation,
    options: &LabelOptions,
) -> Result<Encoded> {
    if !conversation.messages.iter().any(Message::is_assistant) {
        bail!(Row, "no assistant turn, so nothing to train");
    }
    let specials = options.split_special_tokens.then(|| tokenizer.specials());
    let thoughtless = template.drops_thoughts().then(|| conversation.without_thoughts());
    let conversation = thoughtless.as_ref().unwrap_or(conversation);
    let (conversation, has_specials) = marks::mark_specials(conversation, specials);
    let rendered = template.render(&conversation.messages, &conversation.tools, false)?;
    let enough = match conversation.messages.len() > LONG && !options.mask_history {
        true => beyond_cutoff(tokenizer, &rendered, options.cutoff_len)?,
        false => rendered.len(),
    };
    let turns = Turns { template, conversation: &conversation, rendered: &rendered, work: Cell::new(0) };
    let turns = turns.find(enough)?;
    let answers = || conversation.messages.iter().filter(|message| message.is_assistant());
    let left_out = answers().count() - turns.len();
    let edges: Vec<usize> = turns.iter().flat_map(|turn| [turn.start, turn.end]).collect();
    let (text, literal, edges) = if has_specials {
        let unmarked = marks::unmark(&rendered, &edges);
        (unmarked.text, unmarked.literal, unmarked.positions)
    } else {
        (rendered.clone(), Vec::new(), edges)
    };
    let has_special_text = literal.iter().any(|range| !range.is_empty());
    let turns: Vec<Range<usize>> = edges.chunks_exact(2).map(|edge| edge[0]..edge[1]).collect();
    let encode = |cuts: &[usize]| match options.split_special_tokens {
        true => origin::encode(tokenizer, &text, &literal, cuts, || {
            Origin::rendered(template, &conversation, &rendered, false)
        }),
        false => tokenizer.encode_rendered(&text, &literal, cuts),
    };
    let mut tokens = encode(&[])?;
    let begins: Vec<usize> = turns.iter().map(|turn| turn.start).collect();
    let reaches_across = |begin: usize| tokens.offsets.iter().any(|at| at.start < begin && begin < at.end);
    if begins.iter().any(|&begin| reaches_across(begin)) {
        tokens = encode(&begins)?;
    }
    let turns: Vec<Range<usize>> = turns
        .iter()
        .map(|turn| {
            let at = |position: usize| tokens.offsets.partition_point(|token| token.start < position);
            let mut range = at(turn.start)..at(turn.end);
            range.end += usize::from(is_ended_by_next(tokenizer, &tokens.ids, &range));
            range
        })
        .collect();
    let is_unwritten =
        |answer: &Message| answer.extra.contains_key("tool_calls") && !template.reads("tool_calls");
    let untrained: Vec<bool> = answers().map(|answer| answer.masked || is_unwritten(answer)).collect();
    let encoded = cut(tokenizer, &tokens.ids, &turns, &untrained, options);
    Ok(Encoded {
        masked_answers: answers().filter(|answer| answer.masked).count(),
        unwritten_calls: answers().filter(|answer| !answer.masked && is_unwritten(answer)).count(),
        shortened_answers: encoded.shortened_answers + left_out,
        endless_answers: encoded.endless_answers + left_out,
        has_special_text,
        ..encoded
    })
}

/// Whether an answer is ended by the special token that the next turn begins with, because the template
/// closes answers with none, as GLM's does.
fn is_ended_by_next(tokenizer: &Tokenizer, ids: &[u32], turn: &Range<usize>) -> bool {
    let is_control = |&id: &u32| tokenizer.is_control(id);
    !ids[turn.clone()].iter().any(is_control) && ids.get(turn.end).is_some_and(is_control)
}

/// A position in the rendered text after everything that the cutoff keeps, with a margin for tokens that
/// are cut where a turn begins.
fn beyond_cutoff(tokenizer: &Tokenizer, rendered: &str, cutoff_len: usize) -> Result<usize> {
    let unmarked = marks::unmark(rendered, &[]);
    let tokens = tokenizer.encode_rendered(&unmarked.text, &unmarked.literal, &[])?;
    // Marks only add to the text, so that the place is no further in the unmarked one.
    let last = tokens.offsets.get(cutoff_len.saturating_mul(2).saturating_add(64));
    Ok(last.map_or(rendered.len(), |token| token.end + (rendered.len() - unmarked.text.len())))
}

/// Encodes a conversation and the prompt for the next answer. Special tokens in messages are encoded as
/// ordinary text.
pub fn encode_prompt(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    conversation: &Conversation,
) -> Result<Vec<u32>> {
    let thoughtless = template.drops_thoughts().then(|| conversation.without_thoughts());
    let conversation = thoughtless.as_ref().unwrap_or(conversation);
    let (conversation, _) = marks::mark_specials(conversation, Some(tokenizer.specials()));
    let rendered = template.render(&conversation.messages, &conversation.tools, true)?;
    let unmarked = marks::unmark(&rendered, &[]);
    let origin = || Origin::rendered(template, &conversation, &rendered, true);
    Ok(origin::encode(tokenizer, &unmarked.text, &unmarked.literal, &[], origin)?.ids)
}

/// Encodes a plain text, as a base model is prompted, with the tokens that the tokenizer puts around a
/// text. Special tokens in it are encoded as ordinary text.
pub fn encode_document(tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let literal = marks::literal_specials(text, tokenizer.specials());
    let tokens = origin::encode(tokenizer, text, &literal, &[], || Origin::data(text))?;
    tokenizer.as_document(tokens)
}

/// Finds the assistant turns in a rendered conversation.
struct Turns<'a> {
    template: &'a ChatTemplate,
    conversation: &'a Conversation,
    rendered: &'a str,
    /// The number of messages that were rendered to find the turns.
    work: Cell<usize>,
}

impl Turns<'_> {
    /// The byte ranges of the assistant turns in `rendered`, ascending, up to the first that begins after
    /// `enough`.
    fn find(&self, enough: usize) -> Result<Vec<Range<usize>>> {
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

/// Applies the cutoff to the turns one by one, as LLaMA-Factory does: each turn, with the prompt before it,
/// gets the tokens that the turns before it left. Answers that are `untrained` are kept as context.
fn cut(
    tokenizer: &Tokenizer,
    ids: &[u32],
    turns: &[Range<usize>],
    untrained: &[bool],
    options: &LabelOptions,
) -> Encoded {
    let mut encoded = Encoded::default();
    let mut kept: Vec<(Range<usize>, Range<usize>)> = Vec::with_capacity(turns.len());
    let mut left = options.cutoff_len;
    let starts = std::iter::once(0).chain(turns.iter().map(|turn| turn.end));
    let mut pairs: Vec<(Range<usize>, Range<usize>)> =
        starts.zip(turns).map(|(start, turn)| (start..turn.start, turn.clone())).collect();
    if options.mask_history {
        pairs.reverse();
    }
    for (prompt, answer) in pairs {
        let (prompt_len, answer_len) = cutoff::kept_lengths(prompt.len(), answer.len(), left);
        left -= prompt_len + answer_len;
        let kept_answer = answer.start..answer.start + answer_len;
        if answer_len < answer.len() {
            encoded.shortened_answers += 1;
            let end = answer.clone().rev().find(|&at| tokenizer.is_special(ids[at]));
            encoded.endless_answers += usize::from(!kept_answer.contains(&end.unwrap_or(answer.end - 1)));
        }
        kept.push((prompt.start..prompt.start + prompt_len, kept_answer));
    }
    if options.mask_history {
        kept.reverse();
    }
    let last = kept.len() - 1;
    for (index, (prompt, answer)) in kept.into_iter().enumerate() {
        let trained = !options.mask_history || index == last;
        let untrained = untrained.get(index).is_some_and(|&untrained| untrained);
        for (range, trained) in
            [(prompt, options.train_on_prompt && trained), (answer, trained && !untrained)]
        {
            encoded.example.trained.resize(encoded.example.trained.len() + range.len(), trained);
            encoded.example.tokens.extend_from_slice(&ids[range]);
        }
    }
    encoded
}

#[cfg(test)]
mod tests;
