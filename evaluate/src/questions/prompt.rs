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

use super::{Question, Subject};
use crate::tasks::{Task, letter};

/// The program whose prompts are used.
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
    /// Returns the name of the style on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::LmEval => "lm-eval",
            Self::LlamaFactory => "llamafactory",
            Self::Hendrycks => "hendrycks",
        }
    }

    /// Returns the prompt that asks `question` after the first `shots` shots of its subject.
    pub fn prompt(self, subject: &Subject, shots: usize, question: &Question) -> Prompt {
        let task = subject.task;
        let shots = subject.shots.iter().take(shots);
        let header = self.header(subject);
        if self == Self::LlamaFactory {
            let mut messages: Vec<Message> = shots
                .flat_map(|shot| {
                    [
                        Message::new("user", self.ask(task, shot)),
                        Message::new("assistant", letter(shot.answer)),
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
            text += &format!("{} {}\n\n", self.ask(task, shot), letter(shot.answer));
        }
        Prompt::Document(text + &self.ask(task, question))
    }

    /// Returns what a prompt begins with.
    fn header(self, Subject { task, title, .. }: &Subject) -> String {
        let header = match self {
            Self::LmEval => task.harness_header,
            Self::LlamaFactory => task.language.llamafactory_header(),
            Self::Hendrycks => task.hendrycks_header.unwrap_or(task.harness_header),
        };
        header.replace("{subject}", title)
    }

    /// Returns a question up to the place of its answer.
    fn ask(self, task: Task, question: &Question) -> String {
        let stripped = question.text.trim_matches(is_python_space);
        let mut text = if self == Self::LmEval { stripped } else { &question.text }.to_owned();
        for (index, choice) in question.choices.iter().enumerate() {
            text += &format!("\n{}. {choice}", letter(index));
        }
        text + "\n" + task.language.answer_word()
    }

    /// Returns the tokens whose log-probabilities stand for the letters of the choices.
    pub fn answer_tokens(self, task: Task, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let token = |letter: char| {
            let letter = letter.to_string();
            let found = match self {
                // LLaMA-Factory takes the last token of the bare letter.
                Self::LlamaFactory => tokenizer.encode(&letter)?.last().copied(),
                // The others score what a space and the letter add to the prompt.
                Self::LmEval | Self::Hendrycks => {
                    let word = task.language.answer_word();
                    let prompt = tokenizer.encode(word)?;
                    let answered = tokenizer.encode(&format!("{word} {letter}"))?;
                    match answered.strip_prefix(prompt.as_slice()) {
                        Some(&[token]) => Some(token),
                        _ => None,
                    }
                }
            };
            found.ok_or_else(|| {
                error!("the tokenizer has no token of its own for the answer {letter:?}")
                    .hint("--style llamafactory scores the letter without a space")
            })
        };
        task.letters().map(token).collect()
    }
}

/// Returns whether a character is white space as Python's `str.strip` takes it.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// A question as the model is asked it.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A text that the model continues.
    Document(String),
    /// Turns for the chat template, the last one a question.
    Chat(Conversation),
}

impl Prompt {
    /// Returns the text that identifies the prompt.
    pub fn text(&self, template: Option<&ChatTemplate>) -> Result<String> {
        match self {
            Self::Document(text) => Ok(text.clone()),
            Self::Chat(conversation) => needed(template)?.render(&conversation.messages, &[], true),
        }
    }

    /// Returns the token ids of the prompt.
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
    use crate::tasks::TASKS;
    use crate::tasks::tests::TEN_CHOICES;

    fn subject() -> Subject {
        let question = |text: &str, answer| Question {
            text: text.into(),
            choices: ["1", "2", " 3", "4"].map(str::to_owned).to_vec(),
            answer,
        };
        Subject {
            task: TASKS[0],
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
            text(Style::LmEval, TASKS[1], "农学"),
            "以下是关于农学的单项选择题，请直接给出正确答案的选项。\n\n\
             One?\nA. 1\nB. 2\nC.  3\nD. 4\n答案： C\n\nThree?\nA. 1\nB. 2\nC.  3\nD. 4\n答案："
        );
        assert!(
            text(Style::LmEval, TASKS[2], "逻辑学")
                .starts_with("以下是中国关于逻辑学的单项选择题，请选出其中的正确答案。\n\nOne?")
        );
        assert_eq!(
            text(Style::LlamaFactory, TASKS[2], "逻辑学"),
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

    #[test]
    fn a_task_of_ten_choices_is_asked_like_any_other() {
        let choices = (1..=10).map(|number| number.to_string()).collect();
        let question = Question { text: "Four?".into(), choices, answer: 9 };
        let subject = Subject { task: (&TEN_CHOICES).into(), shots: vec![question], ..subject() };
        assert_eq!(
            Style::LmEval.prompt(&subject, 1, &subject.questions[0]).text(None).unwrap(),
            "About abstract algebra:\n\nFour?\nA. 1\nB. 2\nC. 3\nD. 4\nE. 5\nF. 6\nG. 7\nH. 8\nI. 9\nJ. 10\n\
             Answer: J\n\nThree?\nA. 1\nB. 2\nC.  3\nD. 4\nAnswer:"
        );
    }
}
