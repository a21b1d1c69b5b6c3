//! Warnings about answers and examples that are not trained, or not as the user may have meant.

use common::data::EncodingCounts;
use common::{Error, error};

/// Returns the warnings, each with its number; `cutoff` is the number of tokens that examples were cut to.
pub(super) fn warnings(counts: &EncodingCounts, cutoff: usize) -> Vec<String> {
    let EncodingCounts {
        refused: _,
        shortened_answers: shortened,
        endless_answers: endless,
        masked_answers: masked,
        unwritten_calls,
        unwritten_tools,
        special_texts,
        cut_examples: cut,
        masked_examples: empty,
    } = counts;
    let other = "--template names one that does, as qwen";
    [
        (masked, format!("{masked} answers have weight 0 (or train: false) and are not trained")),
        (
            unwritten_calls,
            format!("{unwritten_calls} answers call tools, which the chat template does not write, and are not trained; {other}"),
        ),
        (
            unwritten_tools,
            format!("{unwritten_tools} examples have tools, which the chat template does not write; {other}"),
        ),
        (
            special_texts,
            format!("{special_texts} examples hold the text of a special token, which is trained as text; --split-special-tokens false makes it the token"),
        ),
        (empty, format!("{empty} examples have no other answer and are dropped")),
        (cut, format!("{cut} examples have no answer within {cutoff} tokens (--cutoff-len) and are dropped")),
        (
            shortened,
            format!("{shortened} answers are shortened to fit {cutoff} tokens (--cutoff-len); {endless} of them lost their end token"),
        ),
    ]
    .into_iter()
    .filter_map(|(count, warning)| (*count > 0).then_some(warning))
    .collect()
}

/// Returns the error of data in which no token is supervised.
pub(super) fn error(counts: &EncodingCounts, cutoff: usize) -> Error {
    let EncodingCounts { masked_answers: masked, unwritten_calls, cut_examples: cut, .. } = counts;
    if *cut > 0 {
        return error!("no token is trained: {cutoff} tokens (--cutoff-len) hold no answer")
            .hint("raise --cutoff-len, or look at the first rows of the data");
    }
    error!(
        "no token is trained: {masked} answers have weight 0 (or train: false), {unwritten_calls} call tools, which the chat template does not write"
    )
    .hint("look at the first rows of the data; --template qwen writes calls of tools")
}
