//! A model directory small enough to train in a test: two blocks of random weights, a tokenizer of
//! bytes and the ChatML template; and adapters of it.

use std::path::Path;

use common::adapter::AdapterConfig;
use common::checkpoint::{Tensor, write_file};
use common::device::{Device, Vector};
use common::model::{AdapterSettings, Initialization, Model};
use serde_json::{Map, Value, json};

const WIDTH: usize = 64;
const FEED_FORWARD: usize = 128;
const VOCABULARY: usize = 260;
const LAYERS: usize = 2;
/// The id of `<|im_end|>`: added tokens get the ids behind the 256 bytes, whatever the file says.
const END: usize = 257;

const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' \
    + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}\
    {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// Writes the model into `directory`, which is created. `seed` decides the weights.
pub fn write(directory: &Path, seed: u64) {
    std::fs::create_dir_all(directory).expect("a model directory");
    let text = |file: &str, value: &Value| {
        std::fs::write(directory.join(file), value.to_string()).expect("a file of the model");
    };
    text("config.json", &config());
    text("tokenizer.json", &byte_tokenizer(&[]));
    text(
        "tokenizer_config.json",
        &json!({"chat_template": CHAT_TEMPLATE, "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}),
    );
    text("generation_config.json", &json!({"eos_token_id": END}));
    write_file(&directory.join("model.safetensors"), &tensors(seed)).expect("the weights");
}

/// Writes an adapter of the model in `base` into `directory`, which is created. It changes every answer, and
/// `seed` decides how.
pub fn write_adapter(base: &Path, directory: &Path, seed: u64) {
    let mut model = Model::load(base, &Device::Cpu).expect("the base");
    let options = AdapterSettings {
        rank: 4,
        alpha: 8.0,
        rank_stabilized: false,
        targets: Vec::new(),
        initialization: Initialization::Gaussian,
        seed,
    };
    model.add_adapters(&options).expect("an adapter");
    let shake = |parameters: &mut Vector| {
        for (index, value) in parameters.host_mut()?.iter_mut().enumerate() {
            *value += ((index as u64 * (seed + 3)) % 17) as f32 / 40.0 - 0.2;
        }
        Ok(())
    };
    model.update_parameters(shake).expect("other parameters");
    let config = AdapterConfig::new(base.display().to_string(), 4, 8.0, vec!["q_proj".into()]);
    std::fs::create_dir_all(directory).expect("an adapter directory");
    model.adapter(config).expect("the adapter").save(directory).expect("the files of the adapter");
}

fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "eos_token_id": END, "torch_dtype": "float32",
    })
}

/// A tokenizer in which every byte is a token, in the order of byte-level BPE's alphabet; then come the
/// tokens that `merges` makes of two others, and the two marks of ChatML.
pub fn byte_tokenizer(merges: &[[&str; 2]]) -> Value {
    let printable = (33..=126).chain(161..=172).chain(174..=255);
    let mut letters: Vec<char> = printable.filter_map(char::from_u32).collect();
    letters.extend((256..).filter_map(char::from_u32).take(256 - letters.len()));
    let words = letters.iter().map(char::to_string).chain(merges.iter().map(|pair| pair.concat()));
    let vocabulary: Map<String, Value> = words.enumerate().map(|(id, word)| (word, json!(id))).collect();
    let special = |id: usize, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "normalizer": null, "post_processor": null,
        "added_tokens": [special(VOCABULARY - 2, "<|im_start|>"), special(VOCABULARY - 1, "<|im_end|>")],
        "pre_tokenizer": bytes, "decoder": bytes,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": merges},
    })
}

fn tensors(seed: u64) -> Vec<Tensor> {
    let mut shapes: Vec<(String, Vec<usize>)> = vec![
        ("model.embed_tokens.weight".into(), vec![VOCABULARY, WIDTH]),
        ("model.norm.weight".into(), vec![WIDTH]),
    ];
    for layer in 0..LAYERS {
        for (module, shape) in [
            ("input_layernorm", vec![WIDTH]),
            ("post_attention_layernorm", vec![WIDTH]),
            ("self_attn.q_proj", vec![WIDTH, WIDTH]),
            ("self_attn.k_proj", vec![WIDTH / 2, WIDTH]),
            ("self_attn.v_proj", vec![WIDTH / 2, WIDTH]),
            ("self_attn.o_proj", vec![WIDTH, WIDTH]),
            ("mlp.gate_proj", vec![FEED_FORWARD, WIDTH]),
            ("mlp.up_proj", vec![FEED_FORWARD, WIDTH]),
            ("mlp.down_proj", vec![WIDTH, FEED_FORWARD]),
        ] {
            shapes.push((format!("model.layers.{layer}.{module}.weight"), shape));
        }
    }
    let mut state = seed;
    let mut random = move || {
        // SplitMix64's step and finalizer (Steele et al. 2014).
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    shapes
        .into_iter()
        .map(|(name, shape)| {
            let count = shape.iter().product();
            let norm = shape.len() == 1;
            let values: Vec<f32> =
                (0..count).map(|_| if norm { 1.0 + 0.1 * random() } else { 0.2 * random() }).collect();
            Tensor::from_f32(name, shape, &values)
        })
        .collect()
}
