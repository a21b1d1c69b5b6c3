//! Text to tokens and back: the tokenizer, the model's chat template, and which tokens of a
//! conversation are trained.
//!
//! | file | what it is |
//! |---|---|
//! | [`conversation`] | messages as users write them |
//! | [`files`] | the files that decide how text is encoded, of a model or of an adapter and its base |
//! | [`tokenizer`] | `tokenizer.json`: text to token ids and back |
//! | [`stream`] | token ids to text one at a time, never half a character |
//! | [`template`] | the chat template of a model, rendered as transformers renders it |
//! | `marks` | keeps special tokens in data apart from the template's own |
//! | `origin` | which characters of a rendered text come from data |
//! | [`labels`] | a conversation as tokens, with the trained ones marked |
//! | [`ending`] | the token that ends an answer, as the model's end of text |
//! | [`cutoff`] | shortens a conversation to a number of tokens |

pub mod conversation;
pub mod cutoff;
pub mod ending;
pub mod files;
pub mod labels;
mod marks;
mod origin;
pub mod stream;
pub mod template;
pub mod tokenizer;

pub use conversation::{Conversation, Message};
pub use ending::Ending;
pub use files::TextFiles;
pub use labels::{Encoded, Example, LabelOptions};
pub use stream::StreamDecoder;
pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;
