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

mod turns;

use std::ops::Range;

use crate::text::marks;
use crate::text::origin::{self, Origin};
use crate::text::{ChatTemplate, Conversation, Message, Tokenizer, cutoff};
use crate::{Result, bail};
use turns::Turns;

/// The number of messages above which turns are searched only as far as the cutoff reaches, because each
/// turn takes the rendering of all messages before it.
const LONG: usize = 64;

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
    let turns = Turns::new(template, &conversation, &rendered).find(enough)?;
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
