//! The templates of turns, as LLaMA-Factory registers them.

use super::turns::{Tools, Turns};

const THINK: Option<[&str; 2]> = Some(["<think>\n", "\n</think>\n\n"]);

/// What a template has where LLaMA-Factory is told nothing.
const PLAIN: Turns = Turns {
    prefix: "",
    default_system: "",
    system: ["", ""],
    user: ["", ""],
    header: "",
    answer: ["", "{eos}"],
    call: ["", "{eos}"],
    result: ["", ""],
    folds_system: false,
    ends_once: false,
    thought: None,
    tools: Tools::Default,
};

const CHATML: Turns = Turns {
    system: ["<|im_start|>system\n", "<|im_end|>\n"],
    user: ["<|im_start|>user\n", "<|im_end|>\n"],
    header: "<|im_start|>assistant\n",
    answer: ["", "<|im_end|>\n"],
    call: ["", "<|im_end|>\n"],
    result: ["<|im_start|>user\n", "<|im_end|>\n"],
    ..PLAIN
};

const BREEZE: Turns = Turns {
    prefix: "{bos}",
    user: ["[INST] ", " [/INST] "],
    answer: ["", ""],
    call: ["", ""],
    result: ["[INST] ", " [/INST] "],
    ends_once: true,
    ..PLAIN
};

const DEEPSEEK3: Turns = Turns {
    prefix: "{bos}",
    user: ["<｜User｜>", ""],
    header: "<｜Assistant｜>",
    result: ["<｜User｜>", ""],
    ..PLAIN
};

const DEEPSEEKCODER: Turns = Turns {
    prefix: "{bos}",
    default_system: "You are an AI programming assistant, utilizing the DeepSeek Coder model, developed by DeepSeek \
                     Company, and you only answer questions related to computer science. For politically \
                     sensitive questions, security and privacy issues, and other non-computer science questions, \
                     you will refuse to answer.\n",
    user: ["### Instruction:\n", "\n### Response:"],
    answer: ["\n", "\n<|EOT|>\n"],
    call: ["\n", "\n<|EOT|>\n"],
    result: ["### Instruction:\n", "\n### Response:"],
    ..PLAIN
};

const GEMMA: Turns = Turns {
    prefix: "{bos}",
    system: ["", "\n\n"],
    user: ["<start_of_turn>user\n", "<end_of_turn>\n"],
    header: "<start_of_turn>model\n",
    answer: ["", "<end_of_turn>\n"],
    call: ["", "<end_of_turn>\n"],
    result: ["<start_of_turn>tool\n", "<end_of_turn>\n"],
    folds_system: true,
    ..PLAIN
};

const GLM4: Turns = Turns {
    prefix: "[gMASK]<sop>",
    system: ["<|system|>\n", ""],
    user: ["<|user|>\n", ""],
    header: "<|assistant|>",
    answer: ["\n", ""],
    call: ["", ""],
    result: ["<|observation|>\n", ""],
    ends_once: true,
    tools: Tools::Glm4,
    ..PLAIN
};

const GRANITE3: Turns = Turns {
    system: ["<|start_of_role|>system<|end_of_role|>", "<|end_of_text|>\n"],
    user: ["<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n"],
    header: "<|start_of_role|>assistant<|end_of_role|>",
    answer: ["", "<|end_of_text|>\n"],
    call: ["", "<|end_of_text|>\n"],
    result: ["<|start_of_role|>user<|end_of_role|>", "<|end_of_text|>\n"],
    ..PLAIN
};

const LLAMA2_ZH: Turns = Turns {
    default_system: "You are a helpful assistant. 你是一个乐于助人的助手。",
    system: ["<<SYS>>\n", "\n<</SYS>>\n\n"],
    user: ["{bos}[INST] ", " [/INST]"],
    result: ["{bos}[INST] ", " [/INST]"],
    folds_system: true,
    ..PLAIN
};

const LLAMA3: Turns = Turns {
    prefix: "{bos}",
    system: ["<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"],
    user: ["<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"],
    header: "<|start_header_id|>assistant<|end_header_id|>\n\n",
    answer: ["", "<|eot_id|>"],
    call: ["", "<|eot_id|>"],
    result: ["<|start_header_id|>ipython<|end_header_id|>\n\n", "<|eot_id|>"],
    tools: Tools::Llama3,
    ..PLAIN
};

const MINISTRAL: Turns = Turns {
    prefix: "{bos}",
    system: ["", "\n\n"],
    user: ["[INST]", "[/INST]"],
    call: ["[TOOL_CALLS]", "{eos}"],
    result: ["[TOOL_RESULTS]{\"content\": ", "}[/TOOL_RESULTS]"],
    folds_system: true,
    tools: Tools::Mistral,
    ..PLAIN
};

const MISTRAL: Turns = Turns {
    user: ["[INST] ", "[/INST]"],
    answer: [" ", "{eos}"],
    call: ["[TOOL_CALLS] ", "{eos}"],
    result: ["[TOOL_RESULTS] {\"content\": ", "}[/TOOL_RESULTS]"],
    ..MINISTRAL
};

const MISTRAL_SMALL: Turns =
    Turns { system: ["[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"], folds_system: false, ..MINISTRAL };

const OLMO: Turns = Turns {
    prefix: "{eos}",
    user: ["<|user|>\n", ""],
    header: "<|assistant|>\n",
    result: ["<|user|>\n", ""],
    ..PLAIN
};

const OPENCHAT: Turns = Turns {
    prefix: "{bos}",
    user: ["GPT4 Correct User: ", "{eos}"],
    header: "GPT4 Correct Assistant:",
    result: ["GPT4 Correct User: ", "{eos}"],
    ..PLAIN
};

const PHI: Turns = Turns {
    system: ["<|system|>\n", "<|end|>\n"],
    user: ["<|user|>\n", "<|end|>\n"],
    header: "<|assistant|>\n",
    answer: ["", "<|end|>\n"],
    call: ["", "<|end|>\n"],
    result: ["<|user|>\n", "<|end|>\n"],
    ..PLAIN
};

const PHI4: Turns = Turns {
    system: ["<|im_start|>system<|im_sep|>", "<|im_end|>"],
    user: ["<|im_start|>user<|im_sep|>", "<|im_end|>"],
    header: "<|im_start|>assistant<|im_sep|>",
    answer: ["", "<|im_end|>"],
    call: ["", "<|im_end|>"],
    result: ["<|im_start|>user<|im_sep|>", "<|im_end|>"],
    ..PLAIN
};

const PHI4_MINI: Turns = Turns {
    system: ["<|system|>", "<|end|>"],
    user: ["<|user|>", "<|end|>"],
    header: "<|assistant|>",
    answer: ["", "<|end|>"],
    call: ["", "<|end|>"],
    result: ["<|user|>", "<|end|>"],
    tools: Tools::Phi4Mini,
    ..PLAIN
};

const SAILOR: Turns = Turns {
    default_system: "You are an AI assistant named Sailor created by Sea AI Lab. Your answer should be friendly, \
                     unbiased, faithful, informative and detailed.",
    user: ["<|im_start|>question\n", "<|im_end|>\n"],
    header: "<|im_start|>answer\n",
    result: ["<|im_start|>question\n", "<|im_end|>\n"],
    ..CHATML
};

const SEED_CODER: Turns = Turns {
    default_system: "You are an AI programming assistant, utilizing the Seed-Coder model, developed by ByteDance \
                     Seed, and you only answer questions related to computer science. For politically sensitive \
                     questions, security and privacy issues, and other non-computer science questions, you will \
                     refuse to answer.\n\n",
    system: ["{bos}system\n", "{eos}"],
    user: ["{bos}user\n", "{eos}"],
    header: "{bos}assistant\n",
    result: ["{bos}user\n", "{eos}"],
    ..PLAIN
};

const SOLAR: Turns = Turns {
    system: ["### System:\n", "\n\n"],
    user: ["### User:\n", "\n\n"],
    header: "### Assistant:\n",
    answer: ["", ""],
    call: ["", ""],
    result: ["### User:\n", "\n\n"],
    ends_once: true,
    ..PLAIN
};

const VICUNA: Turns = Turns {
    default_system: "A chat between a curious user and an artificial intelligence assistant. The assistant gives \
                     helpful, detailed, and polite answers to the user's questions.",
    user: ["USER: ", " "],
    header: "ASSISTANT:",
    result: ["USER: ", " "],
    ..PLAIN
};

const ZEPHYR: Turns = Turns {
    default_system: "You are Zephyr, a helpful assistant.",
    system: ["<|system|>\n", "{eos}"],
    user: ["<|user|>\n", "{eos}"],
    header: "<|assistant|>\n",
    result: ["<|user|>\n", "{eos}"],
    ..PLAIN
};

/// The templates by name, in alphabetical order.
pub(super) const TEMPLATES: [(&str, Turns); 35] = [
    ("breeze", BREEZE),
    (
        "chatml_de",
        Turns {
            default_system: "Du bist ein freundlicher und hilfsbereiter KI-Assistent.",
            result: ["<|im_start|>tool\n", "<|im_end|>\n"],
            ..CHATML
        },
    ),
    (
        "deepseek",
        Turns {
            prefix: "{bos}",
            system: ["", "\n\n"],
            user: ["User: ", "\n\n"],
            header: "Assistant:",
            result: ["User: ", "\n\n"],
            ..PLAIN
        },
    ),
    ("deepseek3", DEEPSEEK3),
    ("deepseekcoder", DEEPSEEKCODER),
    ("deepseekr1", Turns { thought: THINK, ..DEEPSEEK3 }),
    ("empty", Turns { answer: ["", ""], call: ["", ""], ..PLAIN }),
    ("fewshot", Turns { answer: ["", "\n\n"], call: ["", "\n\n"], ends_once: true, ..PLAIN }),
    ("gemma", GEMMA),
    ("gemma2", Turns { ends_once: true, ..GEMMA }),
    ("gemma3", GEMMA),
    ("gemma3n", GEMMA),
    ("glm4", GLM4),
    ("glmz1", Turns { thought: THINK, ..GLM4 }),
    ("granite3", GRANITE3),
    ("llama2_zh", LLAMA2_ZH),
    ("llama3", LLAMA3),
    ("ministral", MINISTRAL),
    ("ministral3", MINISTRAL),
    ("mistral", MISTRAL),
    ("mistral_small", MISTRAL_SMALL),
    ("olmo", OLMO),
    ("openchat", OPENCHAT),
    (
        "openchat-3.6",
        Turns {
            prefix: "{bos}",
            user: ["<|start_header_id|>GPT4 Correct User<|end_header_id|>\n\n", "<|eot_id|>"],
            header: "<|start_header_id|>GPT4 Correct Assistant<|end_header_id|>\n\n",
            result: ["<|start_header_id|>GPT4 Correct User<|end_header_id|>\n\n", "<|eot_id|>"],
            ..PLAIN
        },
    ),
    (
        "opencoder",
        Turns {
            default_system: "You are OpenCoder, created by OpenCoder Team.",
            result: ["<|im_start|>tool\n", "<|im_end|>\n"],
            ..CHATML
        },
    ),
    ("phi", PHI),
    ("phi4", PHI4),
    ("phi4_mini", PHI4_MINI),
    ("phi_small", PHI),
    ("sailor", SAILOR),
    ("seed_coder", SEED_CODER),
    ("solar", SOLAR),
    ("vicuna", VICUNA),
    ("yi", CHATML),
    ("zephyr", ZEPHYR),
];
