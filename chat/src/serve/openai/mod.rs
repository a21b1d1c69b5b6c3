//! OpenAI's API in JSON: what requests say, and what answers look like.
//!
//! | file | what it is |
//! |---|---|
//! | `fields` | the fields of a request, read one by one |
//! | `sampling` | the fields that all requests for answers share |
//! | `chat` | `/v1/chat/completions` |
//! | `completions` | `/v1/completions` |
//! | `endpoint` | what the two have in common, and where they differ |
//! | `logprobs` | log-probabilities of the tokens of an answer |
//! | `models` | `/v1/models` |
//! | `problem` | errors |

mod chat;
mod completions;
mod endpoint;
mod fields;
mod logprobs;
mod models;
mod problem;
mod sampling;

pub(crate) use chat::Chat;
pub(crate) use completions::Completions;
pub(crate) use endpoint::{Endpoint, Piece, usage};
pub(crate) use fields::Fields;
pub(crate) use logprobs::TokenLogprob;
pub(crate) use models::{list, model};
pub(crate) use problem::Problem;
pub(crate) use sampling::Sampling;
