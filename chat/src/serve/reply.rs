//! The answers to a request on their way to the client: whole, or piece by piece as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;

use axum::http::header::CONTENT_TYPE;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use common::generate::StopReason;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

use super::openai::{Endpoint, Piece, Problem, TokenLogprob, usage};
use super::queue::Progress;

/// What a request is answered with: the events of its jobs, and how they are written.
pub(crate) struct Reply {
    /// How the answers are written.
    pub endpoint: &'static dyn Endpoint,
    /// The id of the answers.
    pub id: String,
    /// The name of the model.
    pub model: String,
    /// When the answers began, in seconds since 1970.
    pub created: u64,
    /// The number of tokens of all prompts.
    pub prompt_tokens: usize,
    /// The number of answers.
    pub choices: usize,
    /// The events of all answers, each with the number of its answer.
    pub events: Receiver<(usize, Progress)>,
}

/// A choice as far as it is known.
#[derive(Default)]
struct Choice {
    text: String,
    logprobs: Option<Vec<TokenLogprob>>,
    end: Option<(StopReason, usize)>,
}

impl Reply {
    /// Waits for all answers. Where the client hangs up meanwhile, the wait is dropped, and with it the jobs.
    pub(crate) async fn whole(mut self) -> Result<Response, Problem> {
        let mut choices: Vec<Choice> = (0..self.choices).map(|_| Choice::default()).collect();
        while choices.iter().any(|choice| choice.end.is_none()) {
            let Some((index, progress)) = self.events.recv().await else { return Err(Problem::ending()) };
            let choice = &mut choices[index];
            match progress {
                Progress::Piece { text, logprob } => {
                    choice.text += &text;
                    if let Some(logprob) = logprob {
                        choice.logprobs.get_or_insert_default().push(logprob);
                    }
                }
                Progress::End { text, reason, tokens } => {
                    choice.text += &text;
                    choice.end = Some((reason, tokens));
                }
                Progress::Failed(problem) => return Err(problem),
            }
        }
        let tokens = choices.iter().filter_map(|choice| choice.end).map(|(_, tokens)| tokens).sum();
        let choices = choices.iter().enumerate().map(|(index, choice)| {
            self.endpoint.whole(&Piece {
                index,
                text: &choice.text,
                logprobs: choice.logprobs.as_deref(),
                offset: 0,
                reason: choice.end.map(|(reason, _)| reason),
            })
        });
        let [object, _] = self.endpoint.objects();
        let mut answer = self.json(object, choices.collect());
        answer["usage"] = usage(self.prompt_tokens, tokens);
        Ok(([(CONTENT_TYPE, "application/json")], answer.to_string()).into_response())
    }

    /// Sends the answers as they grow; with `usage`, the numbers of tokens come last.
    pub(crate) fn stream(self, usage: bool) -> Response {
        let beginnings: Vec<Value> =
            (0..self.choices).filter_map(|index| self.endpoint.beginning(index)).collect();
        let (open, offsets) = (self.choices, vec![0; self.choices]);
        let mut stream =
            Stream { reply: self, usage, tokens: 0, open, offsets, ready: VecDeque::new(), has_ended: false };
        for beginning in beginnings {
            stream.push(beginning);
        }
        let events = stream::unfold(stream, |mut stream| async move {
            let event = stream.next().await?;
            Some((Ok::<_, Infallible>(event), stream))
        });
        Sse::new(events).keep_alive(KeepAlive::default()).into_response()
    }

    fn json(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }
}

/// The events of a reply.
struct Stream {
    reply: Reply,
    usage: bool,
    /// The number of tokens of the answers that have ended.
    tokens: usize,
    /// The number of answers that have not ended.
    open: usize,
    /// The number of characters of each answer so far.
    offsets: Vec<usize>,
    /// Events that can be sent now.
    ready: VecDeque<Event>,
    has_ended: bool,
}

impl Stream {
    /// Waits for the next event; there is none after the end.
    async fn next(&mut self) -> Option<Event> {
        while self.ready.is_empty() && !self.has_ended {
            match self.reply.events.recv().await {
                Some((index, progress)) => self.take(index, progress),
                None => self.fail(&Problem::ending()),
            }
        }
        self.ready.pop_front()
    }

    fn take(&mut self, index: usize, progress: Progress) {
        match progress {
            Progress::Piece { text, logprob } => {
                let logprobs = logprob.as_ref().map(std::slice::from_ref);
                self.part(index, &text, logprobs, None);
                self.offsets[index] += logprob.map_or(0, |logprob| logprob.characters());
            }
            Progress::End { text, reason, tokens } => {
                if !text.is_empty() {
                    self.part(index, &text, None, None);
                }
                self.part(index, "", None, Some(reason));
                self.tokens += tokens;
                self.open -= 1;
                if self.open == 0 {
                    self.end();
                }
            }
            Progress::Failed(problem) => self.fail(&problem),
        }
    }

    fn part(
        &mut self,
        index: usize,
        text: &str,
        logprobs: Option<&[TokenLogprob]>,
        reason: Option<StopReason>,
    ) {
        let piece = Piece { index, text, logprobs, offset: self.offsets[index], reason };
        self.push(self.reply.endpoint.part(&piece));
    }

    fn end(&mut self) {
        if self.usage {
            let mut last = self.json(Vec::new());
            last["usage"] = usage(self.reply.prompt_tokens, self.tokens);
            self.ready.push_back(Event::default().data(last.to_string()));
        }
        self.ready.push_back(Event::default().data("[DONE]"));
        self.has_ended = true;
    }

    fn fail(&mut self, problem: &Problem) {
        self.ready.push_back(Event::default().data(problem.json().to_string()));
        self.has_ended = true;
    }

    fn push(&mut self, choice: Value) {
        let mut part = self.json(vec![choice]);
        // As the API has it: null in all parts but the last, where the last one tells.
        if self.usage {
            part["usage"] = Value::Null;
        }
        self.ready.push_back(Event::default().data(part.to_string()));
    }

    fn json(&self, choices: Vec<Value>) -> Value {
        let [_, object] = self.reply.endpoint.objects();
        self.reply.json(object, choices)
    }
}
