//! Templates that write turn after turn and differ only in the texts around them, as LLaMA-Factory registers
//! them. `turns.jinja` writes the turns.

/// The texts around the parts of a conversation. `{bos}` and `{eos}` in them stand for the tokenizer's tokens.
pub(super) struct Turns {
    /// The text that a conversation begins with.
    pub(super) prefix: &'static str,
    /// The system message of a conversation without one.
    pub(super) default_system: &'static str,
    /// The texts before and after a system message and the tools.
    pub(super) system: [&'static str; 2],
    /// The texts before and after a user's message.
    pub(super) user: [&'static str; 2],
    /// The text that begins an assistant's turn, and ends a prompt.
    pub(super) header: &'static str,
    /// The texts before and after an answer.
    pub(super) answer: [&'static str; 2],
    /// The texts before and after calls of tools.
    pub(super) call: [&'static str; 2],
    /// The texts before and after the result of a call.
    pub(super) result: [&'static str; 2],
    /// Whether the system message is a part of the first user's message.
    pub(super) folds_system: bool,
    /// Whether the end of text closes the last answer only (`efficient_eos`).
    pub(super) ends_once: bool,
    /// The tags around a thought, with which an answer without a thought begins.
    pub(super) thought: Option<[&'static str; 2]>,
    /// How tools, and calls of them, are written.
    pub(super) tools: Tools,
}

/// How tools, and calls of them, are written.
#[derive(Clone, Copy)]
pub(super) enum Tools {
    Default,
    Glm4,
    Llama3,
    Mistral,
    Phi4Mini,
}

impl Tools {
    /// The Jinja macros that write tools and calls.
    fn macros(self) -> &'static str {
        match self {
            Self::Default => include_str!("tools/default.jinja"),
            Self::Glm4 => include_str!("tools/glm4.jinja"),
            Self::Llama3 => include_str!("tools/llama3.jinja"),
            Self::Mistral => include_str!("tools/mistral.jinja"),
            Self::Phi4Mini => include_str!("tools/phi4_mini.jinja"),
        }
    }
}

impl Turns {
    /// The Jinja text of the template.
    pub(super) fn source(&self) -> String {
        let pair = |[before, after]: [&str; 2]| format!("[{}, {}]", expression(before), expression(after));
        let settings = [
            ("prefix", expression(self.prefix)),
            ("default_system", expression(self.default_system)),
            ("system", pair(self.system)),
            ("user", pair(self.user)),
            ("header", expression(self.header)),
            ("answer", pair(self.answer)),
            ("call", pair(self.call)),
            ("result", pair(self.result)),
            ("folds_system", self.folds_system.to_string()),
            ("ends_once", self.ends_once.to_string()),
            ("thought", self.thought.map_or("none".to_owned(), pair)),
        ];
        let settings = settings.map(|(name, value)| format!("{{%- set {name} = {value} -%}}\n"));
        let thoughts = if self.thought.is_some() { include_str!("thoughts.jinja") } else { "" };
        settings.concat() + self.tools.macros() + thoughts + include_str!("turns.jinja")
    }
}

/// A text as a Jinja expression.
fn expression(text: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let token = [("{bos}", "bos_token"), ("{eos}", "eos_token")]
            .into_iter()
            .filter_map(|(mark, name)| Some((rest.find(mark)?, mark, name)))
            .min();
        let (literal, after) = rest.split_at(token.map_or(rest.len(), |(at, _, _)| at));
        if !literal.is_empty() {
            parts.push(format!(
                "'{}'",
                literal.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n")
            ));
        }
        parts.extend(token.map(|(_, _, name)| name.to_owned()));
        rest = token.map_or("", |(_, mark, _)| &after[mark.len()..]);
    }
    if parts.is_empty() { "''".to_owned() } else { parts.join(" + ") }
}

#[cfg(test)]
mod tests {
    use super::expression;

    #[test]
    fn texts_become_expressions() {
        assert_eq!(expression(""), "''");
        assert_eq!(expression("{bos}"), "bos_token");
        assert_eq!(expression("it's\n{eos}{bos}x"), "'it\\'s\\n' + eos_token + bos_token + 'x'");
    }
}
