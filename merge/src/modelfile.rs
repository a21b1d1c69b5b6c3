//! Writes an Ollama Modelfile beside the weights, as LLaMA-Factory does.
//!
//! Ollama's templates are Go's and the model's is Jinja, so the texts around the turns are found by
//! rendering marked conversations. Where a template is not a plain sequence of turns, the Modelfile has no
//! template, and Ollama takes it from the tokenizer where it knows the family.

use std::path::Path;

use common::text::{ChatTemplate, Message, Tokenizer};
use common::{Result, cli};

const PARAMETERS: &str = "PARAMETER num_ctx 4096\n";
const MARKS: [&str; 4] = ["\u{1}system\u{1}", "\u{1}user\u{1}", "\u{1}assistant\u{1}", "\u{1}again\u{1}"];

/// The Modelfile of the weights `from` of the model in `directory`; `None` where it has no chat template.
pub(crate) fn modelfile(directory: &Path, from: &str) -> Option<String> {
    let tokenizer = Tokenizer::load(directory).ok()?;
    let template = ChatTemplate::load(directory, &tokenizer).ok()?;
    let mut text = format!("FROM {from}\n");
    if let Ok(Some(turns)) = Turns::of(&template) {
        if !turns.are_plain() {
            cli::warn(
                "the Modelfile is without the chat template, whose text would be read as instructions in it",
            );
            return Some(text + PARAMETERS);
        }
        text += &format!("\nTEMPLATE \"\"\"{}\"\"\"\n", turns.go());
        if !turns.default_system.is_empty() {
            text += &format!("\nSYSTEM \"\"\"{}\"\"\"\n", turns.default_system);
        }
        let stop = turns.assistant.1.trim();
        if !stop.is_empty() {
            text += &format!("\nPARAMETER stop \"{stop}\"\n");
        }
    }
    Some(text + PARAMETERS)
}

/// Whether a text has no special meaning between quotes, nor in Go's templates.
fn is_plain(text: &str) -> bool {
    let is_control = |c: char| c.is_control() && c != '\n' && c != '\t';
    let bounds = text.starts_with('"') || text.ends_with('"');
    !bounds
        && ["\"\"\"", "{{", "}}"].iter().all(|special| !text.contains(special))
        && !text.contains(is_control)
}

/// The texts before and after the message of each role.
#[derive(Debug, PartialEq)]
struct Turns {
    system: (String, String),
    user: (String, String),
    assistant: (String, String),
    default_system: String,
}

impl Turns {
    /// The turns of a template, or `None` where it is not made of turns.
    fn of(template: &ChatTemplate) -> Result<Option<Self>> {
        let roles = ["system", "user", "assistant", "user"];
        let messages: Vec<Message> =
            roles.iter().zip(MARKS).map(|(role, mark)| Message::new(*role, mark)).collect();
        let long = template.render(&messages, &[], false)?;
        let short = template.render(&messages[..3], &[], false)?;
        let plain = template.render(&messages[1..2], &[], false)?;
        Ok(Self::from_renderings(&long, &short, &plain))
    }

    fn from_renderings(long: &str, short: &str, plain: &str) -> Option<Self> {
        let (system_begin, rest) = long.split_once(MARKS[0])?;
        let (between, rest) = rest.split_once(MARKS[1])?;
        let (user_to_assistant, rest) = rest.split_once(MARKS[2])?;
        let (assistant_to_user, user_end) = rest.split_once(MARKS[3])?;
        let (_, assistant_end) = short.split_once(MARKS[2])?;
        let assistant_begin = user_to_assistant.strip_prefix(user_end)?;
        let user_begin = assistant_to_user.strip_prefix(assistant_end)?;
        let system_end = between.strip_suffix(user_begin)?;
        let (before, after) = plain.split_once(MARKS[1])?;
        let before = before.strip_suffix(user_begin)?;
        let default_system = match before {
            "" => "",
            _ => before.strip_prefix(system_begin)?.strip_suffix(system_end)?,
        };
        let own = |begin: &str, end: &str| (begin.to_string(), end.to_string());
        (after == user_end).then(|| Self {
            system: own(system_begin, system_end),
            user: own(user_begin, user_end),
            assistant: own(assistant_begin, assistant_end),
            default_system: default_system.to_string(),
        })
    }

    /// Whether no text would be read as the end of a quotation, or as an instruction.
    fn are_plain(&self) -> bool {
        let texts = [&self.system, &self.user, &self.assistant].into_iter().flat_map(|(a, b)| [a, b]);
        // The stop stands on a line of its own, and braces may meet those of the actions around them.
        let stop = self.assistant.1.trim();
        texts.chain([&self.default_system]).all(|text| is_plain(text))
            && !stop.contains(['"', '\n'])
            && ["\"\"\"", "{{{", "}}}"].iter().all(|special| !self.go().contains(special))
    }

    /// The turns as a Go template over Ollama's `.System` and `.Messages`.
    fn go(&self) -> String {
        let (system, user, assistant) = (&self.system, &self.user, &self.assistant);
        format!(
            "{{{{ if .System }}}}{}{{{{ .System }}}}{}{{{{ end }}}}{{{{ range .Messages }}}}\
             {{{{ if eq .Role \"user\" }}}}{}{{{{ .Content }}}}{}{}\
             {{{{ else if eq .Role \"assistant\" }}}}{{{{ .Content }}}}{}{{{{ end }}}}{{{{ end }}}}",
            system.0, system.1, user.0, user.1, assistant.0, assistant.1
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}\
        {% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

    fn turns(template: &str) -> Option<Turns> {
        let template = ChatTemplate::from_source(template, serde_json::Map::new()).unwrap();
        Turns::of(&template).unwrap()
    }

    #[test]
    fn chatml_is_taken_apart() {
        let turns = turns(CHATML).unwrap();
        assert_eq!(turns.default_system, "Be kind.");
        assert_eq!(
            turns.go(),
            "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}{{ range .Messages }}\
             {{ if eq .Role \"user\" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n<|im_start|>assistant\n\
             {{ else if eq .Role \"assistant\" }}{{ .Content }}<|im_end|>\n{{ end }}{{ end }}"
        );
    }

    #[test]
    fn a_template_that_folds_the_system_into_the_user_turn_is_left_to_ollama() {
        let folding = "{% for m in messages %}{% if m['role'] == 'user' %}[INST] \
            {% if loop.index0 == 1 %}<<{{ messages[0]['content'] }}>> {% endif %}{{ m['content'] }} [/INST]\
            {% elif m['role'] == 'assistant' %} {{ m['content'] }}</s>{% endif %}{% endfor %}";
        assert!(turns(folding).is_none());
    }
}
