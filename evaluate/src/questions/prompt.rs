//! Questions as the harness of a name prompts with them.
//!
//! All begin with a line about the subject (of MMLU: `The following are multiple choice questions
//! (with answers) about SUBJECT.`), show the shots with their answers, then ask. They differ in small
//! things that move scores:
//!
//! | style | source | what differs |
//! |---|---|---|
//! | `lm-eval` | lm-evaluation-harness, `tasks/{mmlu/default,cmmlu,ceval}` | questions stripped of white space, answers behind a space |
//! | `llamafactory` | LLaMA-Factory 0.9.3, `eval/template.py` | each shot is a turn of the model's chat template; the shots are the first ones, in file order |
//! | `hendrycks` | hendrycks/test, `evaluate.py` (MMLU only) | two spaces before the subject, nothing stripped, shots dropped to fit the window |

use common::text::labels::{encode_document, encode_prompt};
use common::text::{ChatTemplate, Conversation, Message, Tokenizer};
use common::{Result, error};

use super::{LETTERS, Question, Subject, Task};

/// Whose prompts are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Style {
    /// lm-evaluation-harness
    #[default]
    LmEval,
    /// LLaMA-Factory's eval: chat turns through the model's template
    #[value(name = "llamafactory")]
    LlamaFactory,
    /// The script of MMLU's authors
    Hendrycks,
}

impl Style {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::LmEval => "lm-eval",
            Self::LlamaFactory => "llamafactory",
            Self::Hendrycks => "hendrycks",
        }
    }

    /// The prompt that asks `question` after the first `shots` shots of its subject.
    pub fn prompt(self, subject: &Subject, shots: usize, question: &Question) -> Prompt {
        let task = subject.task;
        let shots = subject.shots.iter().take(shots);
        let header = self.header(subject);
        if self == Self::LlamaFactory {
            let mut messages: Vec<Message> = shots
                .flat_map(|shot| {
                    [
                        Message::new("user", self.ask(task, shot)),
                        Message::new("assistant", LETTERS[shot.answer]),
                    ]
                })
                .collect();
            messages.push(Message::new("user", self.ask(task, question)));
            if let Some(first) = &mut messages[0].content {
                first.insert_str(0, &header);
            }
            return Prompt::Chat(Conversation { messages, tools: Vec::new() });
        }
        let mut text = header;
        for shot in shots {
            text += &format!("{} {}\n\n", self.ask(task, shot), LETTERS[shot.answer]);
        }
        Prompt::Document(text + &self.ask(task, question))
    }

    /// What a prompt begins with.
    fn header(self, Subject { task, title, .. }: &Subject) -> String {
        match (task, self) {
            (Task::Mmlu, Self::Hendrycks) => {
                format!("The following are multiple choice questions (with answers) about  {title}.\n\n")
            }
            (Task::Mmlu, _) => {
                format!("The following are multiple choice questions (with answers) about {title}.\n\n")
            }
            (_, Self::LlamaFactory) => {
                format!("以下是中国关于{title}考试的单项选择题，请选出其中的正确答案。\n\n")
            }
            (Task::CEval, _) => format!("以下是中国关于{title}的单项选择题，请选出其中的正确答案。\n\n"),
            (Task::Cmmlu, _) => format!("以下是关于{title}的单项选择题，请直接给出正确答案的选项。\n\n"),
        }
    }

    /// A question up to the place of its answer.
    fn ask(self, task: Task, question: &Question) -> String {
        let stripped = question.text.trim_matches(is_python_space);
        let mut text = if self == Self::LmEval { stripped } else { &question.text }.to_owned();
        for (letter, choice) in LETTERS.iter().zip(&question.choices) {
            text += &format!("\n{letter}. {choice}");
        }
        text + "\n" + task.answer_word()
    }

    /// The tokens whose logprobs stand for the four letters.
    pub fn answer_tokens(self, task: Task, tokenizer: &Tokenizer) -> Result<[u32; 4]> {
        let mut tokens = [0; 4];
        for (token, letter) in tokens.iter_mut().zip(LETTERS) {
            let found = match self {
                // LLaMA-Factory takes the last token of the bare letter.
                Self::LlamaFactory => tokenizer.encode(letter)?.last().copied(),
                // The others score what a space and the letter add to the prompt.
                Self::LmEval | Self::Hendrycks => {
                    let word = task.answer_word();
                    let prompt = tokenizer.encode(word)?;
                    let answered = tokenizer.encode(&format!("{word} {letter}"))?;
                    match answered.strip_prefix(prompt.as_slice()) {
                        Some(&[token]) => Some(token),
                        _ => None,
                    }
                }
            };
            *token = found.ok_or_else(|| {
                error!("the tokenizer has no token of its own for the answer {letter:?}")
                    .hint("--style llamafactory scores the letter without a space")
            })?;
        }
        Ok(tokens)
    }
}

/// White space as Python's `str.strip` takes it.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// What the model is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A text that the model continues.
    Document(String),
    /// Turns for the chat template, the last one a question.
    Chat(Conversation),
}

impl Prompt {
    /// The text that identifies the prompt.
    pub fn text(&self, template: Option<&ChatTemplate>) -> Result<String> {
        match self {
            Self::Document(text) => Ok(text.clone()),
            Self::Chat(conversation) => needed(template)?.render(&conversation.messages, &[], true),
        }
    }

    /// Token ids.
    pub fn encode(&self, tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Result<Vec<u32>> {
        match self {
            Self::Document(text) => encode_document(tokenizer, text),
            Self::Chat(conversation) => encode_prompt(tokenizer, needed(template)?, conversation),
        }
    }
}

fn needed(template: Option<&ChatTemplate>) -> Result<&ChatTemplate> {
    template.ok_or_else(|| error!(Missing, "--style llamafactory needs a model with a chat template"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        let question = |text: &str, answer| Question {
            text: text.into(),
            choices: ["1", "2", " 3", "4"].map(str::to_owned),
            answer,
        };
        Subject {
            task: Task::Mmlu,
            name: "abstract_algebra".into(),
            title: "abstract algebra".into(),
            shots: vec![question(" One?\n", 2), question("Two?", 0)],
            questions: vec![question("Three? ", 1)],
        }
    }

    fn text(style: Style, shots: usize) -> String {
        let subject = subject();
        style.prompt(&subject, shots, &subject.questions[0]).text(None).unwrap()
    }

    #[test]
    fn lm_eval_strips_questions_and_nothing_else() {
        assert_eq!(
            text(Style::LmEval, 1),
            "The following are multiple choice questions (with answers) about abstract algebra.\n\n\
             One?\nA. 1\nB. 2\nC.  3\nD. 4\nAnswer: C\n\n\
             Three?\nA. 1\nB. 2\nC.  3\nD. 4\nAnswer:"
        );
    }

    #[test]
    fn hendrycks_has_two_spaces_and_strips_nothing() {
        assert_eq!(
            text(Style::Hendrycks, 1),
            "The following are multiple choice questions (with answers) about  abstract algebra.\n\n \
             One?\n\nA. 1\nB. 2\nC.  3\nD. 4\nAnswer: C\n\n\
             Three? \nA. 1\nB. 2\nC.  3\nD. 4\nAnswer:"
        );
    }

    #[test]
    fn llamafactory_asks_in_turns() {
        let subject = subject();
        let prompt = Style::LlamaFactory.prompt(&subject, 2, &subject.questions[0]);
        let Prompt::Chat(conversation) = prompt else { panic!("turns expected") };
        let turns: Vec<_> =
            conversation.messages.iter().map(|m| (m.role.as_str(), m.content.as_deref().unwrap())).collect();
        assert_eq!(turns.len(), 5);
        assert!(turns[0].1.starts_with("The following are multiple choice questions (with answers) about abstract algebra.\n\n One?\n\nA. 1"));
        assert_eq!(turns[1], ("assistant", "C"));
        assert_eq!(turns[4], ("user", "Three? \nA. 1\nB. 2\nC.  3\nD. 4\nAnswer:"));
    }

    #[test]
    fn chinese_prompts_are_those_of_their_harness() {
        let text = |style: Style, task, title: &str| {
            let subject = Subject { task, title: title.into(), ..subject() };
            match style.prompt(&subject, 1, &subject.questions[0]) {
                Prompt::Document(text) => text,
                Prompt::Chat(conversation) => {
                    conversation.messages.iter().flat_map(|m| m.content.clone()).collect()
                }
            }
        };
        assert_eq!(
            text(Style::LmEval, Task::Cmmlu, "农学"),
            "以下是关于农学的单项选择题，请直接给出正确答案的选项。\n\n\
             One?\nA. 1\nB. 2\nC.  3\nD. 4\n答案： C\n\nThree?\nA. 1\nB. 2\nC.  3\nD. 4\n答案："
        );
        assert!(
            text(Style::LmEval, Task::CEval, "逻辑学")
                .starts_with("以下是中国关于逻辑学的单项选择题，请选出其中的正确答案。\n\nOne?")
        );
        assert_eq!(
            text(Style::LlamaFactory, Task::CEval, "逻辑学"),
            "以下是中国关于逻辑学考试的单项选择题，请选出其中的正确答案。\n\n \
             One?\n\nA. 1\nB. 2\nC.  3\nD. 4\n答案：CThree? \nA. 1\nB. 2\nC.  3\nD. 4\n答案："
        );
    }

    #[test]
    fn no_shots_is_a_bare_question() {
        assert!(
            text(Style::LmEval, 0).ends_with("abstract algebra.\n\nThree?\nA. 1\nB. 2\nC.  3\nD. 4\nAnswer:")
        );
    }
}
