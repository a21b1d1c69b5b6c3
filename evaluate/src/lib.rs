//! Scores models on multiple-choice questions, and talks to them.
//!
//! | module | what it is |
//! |---|---|
//! | [`mmlu`] | the questions: files, categories, prompts |
//! | [`score`] | logprobs of the four letters, the shared prefix computed once |
//! | [`report`] | accuracies as a table and as JSON |
//! | [`compare`] | two reports question by question |
//! | [`journal`] | what is scored so far, for a run that is stopped |
//! | [`identity`] | which model a figure belongs to, and where its text files are |
//! | [`chat`] | conversations: sampling, streaming, the commands of the prompt |

pub mod chat;
pub mod compare;
pub mod identity;
pub mod journal;
pub mod mmlu;
pub mod report;
pub mod score;
