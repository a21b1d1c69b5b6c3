//! Answers of a model, token by token. Nothing in here prints, reads a keyboard or knows a terminal: the
//! caller asks for one event after the other and does with it what it likes, for one session or for many
//! in turn.
//!
//! ```no_run
//! use common::generate::{ChatFormat, Event, GenerationSettings, ModelEngine, Overrides, Session};
//! use common::text::{ChatTemplate, Conversation, Message, TextFiles, Tokenizer};
//! # fn main() -> common::Result<()> {
//! let directory = std::path::Path::new("SmolLM2-135M-Instruct");
//! let model = common::model::Model::load(directory, &common::device::Device::Cpu)?;
//! let tokenizer = Tokenizer::load(directory)?;
//! let template = ChatTemplate::load(directory, &tokenizer)?;
//! let format = ChatFormat::new(tokenizer, template);
//! let files = TextFiles::of(directory, None);
//! let settings = GenerationSettings::load(&files, &Overrides::default(), format.stop_tokens())?;
//!
//! let messages = vec![Message::new("user", "Who are you?")];
//! let mut conversation = Conversation { messages, tools: Vec::new() };
//! let mut session = Session::new(&format, ModelEngine::new(&model, false), 0);
//! let prompt = session.prompt(&mut conversation, &settings)?;
//! session.begin(prompt.tokens, &settings)?;
//! let mut answer = String::new();
//! loop {
//!     match session.next_event()? {
//!         Event::Prompt => {}
//!         Event::Token { text, .. } => answer += &text,
//!         Event::Stop(_) => break,
//!     }
//! }
//! answer += &session.finish()?;
//! # Ok(()) }
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | [`mod@format`] | how a conversation becomes a prompt that fits the model, and what ends an answer |
//! | [`settings`] | how tokens are chosen: `generation_config.json`, and what the caller overrides |
//! | [`session`] | a conversation's answers with a model of its own |
//! | [`answers`] | answers as events: pieces of text, and why an answer stops; the caller runs the model |
//! | [`stop_text`] | ends an answer at a text |
//! | [`generator`] | tokens one by one: which go through the model, which is chosen |
//! | [`sampler`] | chooses one token by its logits |
//! | [`mod@logprobs`] | log-probabilities of tokens |
//! | [`engine`] | the model with the keys and values of the text so far |

pub mod answers;
pub mod engine;
pub mod format;
pub mod generator;
pub mod logprobs;
pub mod sampler;
pub mod session;
pub mod settings;
pub mod stop_text;

pub use answers::{Answers, Event};
pub use engine::{Engine, Limits, ModelEngine};
pub use format::{ChatFormat, Prompt};
pub use generator::{Generator, Input, PROMPT_PASS, Step, StopReason};
pub use logprobs::{likeliest, logprobs};
pub use sampler::Sampler;
pub use session::Session;
pub use settings::{GenerationSettings, OutOfRange, Overrides};
