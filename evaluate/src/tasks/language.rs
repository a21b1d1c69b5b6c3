//! What prompts say in a language, whatever they are about.

/// The language of prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// English.
    English,
    /// Chinese.
    Chinese,
}

impl Language {
    /// Returns what stands before an answer.
    pub fn answer_word(self) -> &'static str {
        match self {
            Self::English => "Answer:",
            Self::Chinese => "答案：",
        }
    }

    /// Returns what a prompt of LLaMA-Factory's `eval` begins with; `{subject}` stands for the subject.
    pub fn llamafactory_header(self) -> &'static str {
        match self {
            Self::English => {
                "The following are multiple choice questions (with answers) about {subject}.\n\n"
            }
            Self::Chinese => "以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n\n",
        }
    }
}
