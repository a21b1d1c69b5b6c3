//! Scores models on multiple-choice questions, and talks to them.
//!
//! | module | what it is |
//! |---|---|
//! | [`model`] | the options that say how models are loaded, adapters of one base together |
//! | [`questions`] | MMLU, CMMLU, C-Eval: files, categories, prompts |
//! | [`texts`] | the prompts of a model as tokens |
//! | [`score`] | logprobs of the four letters, the shared prefix computed once |
//! | [`report`] | accuracies as a table, as JSON and as a chart |
//! | [`ranking`] | several models in one table, best first |
//! | [`loss`] | loss and perplexity on instruction data |
//! | [`compare`] | two reports question by question |
//! | [`outputs`] | the report, its chart and the details, written whole |
//! | [`journal`] | what is scored so far, for a run that is stopped |
//! | [`identity`] | which model a figure belongs to |
//! | [`chat`] | conversations: sampling, streaming, the commands of the prompt |

pub mod chat;
pub mod compare;
pub mod identity;
pub mod journal;
pub mod loss;
pub mod model;
pub mod outputs;
pub mod questions;
pub mod ranking;
pub mod report;
pub mod report_name;
pub mod score;
pub mod texts;
