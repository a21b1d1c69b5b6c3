//! Scores models on multiple-choice questions, and computes their losses.
//!
//! | module | what it is |
//! |---|---|
//! | [`arguments`] | the command line |
//! | [`accuracy`] | models ranked by the questions they answer right |
//! | [`loss`] | models ranked by their loss on instruction data |
//! | [`tasks`] | MMLU, CMMLU and C-Eval: one file and one line in a table each |
//! | [`questions`] | the questions: files, rows, prompts |
//! | [`texts`] | the prompts of a model as tokens |
//! | [`score`] | log-probabilities of the letters; what prompts begin with alike is computed once |
//! | [`scored`] | the scores of a subject's questions |
//! | [`parts`] | which passes of which subjects each rank scores |
//! | [`collector`] | the scores of all subjects, as ranks find them |
//! | [`report`] | accuracies as a table, as JSON and as a chart |
//! | [`ranking`] | several models in one table, best first |
//! | [`compare`] | two reports question by question |
//! | [`outputs`] | the report, its chart and the details, written whole |
//! | [`journal`] | what is scored so far, for a run that is stopped |
//! | [`identity`] | which model a figure belongs to |

pub mod accuracy;
pub mod arguments;
pub mod collector;
pub mod compare;
pub mod identity;
pub mod journal;
pub mod loss;
pub mod outputs;
pub mod parts;
pub mod questions;
pub mod ranking;
pub mod report;
pub mod score;
pub mod scored;
pub mod tasks;
pub mod texts;
