//! Files of tiny models of every family, compared with those of llama.cpp's converter.

use std::path::{Path, PathBuf};

use common::adapter::Adapter;
use common::checkpoint::{Checkpoint, Tensor, write_file};
use common::device::Device;
use common::gguf::{GgufFile, GgufWriter, Metadata, TensorInfo, TensorType, Value as Entry};
use common::hex;
use common::llama_cpp::text_files;
use common::model::{Batch, Cache, Config, Model, text_config};
use common::text::Tokenizer;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::*;
use crate::base::Base;
use crate::gguf_file::export;
use crate::plan::MergePlan;
use crate::request::{Content, Request};

/// The families with references.
fn families() -> Vec<String> {
    let files = std::fs::read_dir(golden("gguf")).unwrap();
    let names =
        files.filter_map(|file| Some(file.ok()?.file_name().to_str()?.strip_suffix(".json")?.to_owned()));
    let found: Vec<String> = names.filter(|name| golden("models").join(name).exists()).collect();
    assert!(!found.is_empty());
    found
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

fn copy_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

/// A file as the references describe it.
fn described(file: &GgufFile) -> Value {
    let keys = file.metadata.iter().map(|(key, value)| {
        let (kind, value) = match value {
            Entry::U32(value) => ("UINT32", json!(value)),
            Entry::I32(value) => ("INT32", json!(value)),
            Entry::F32(value) => ("FLOAT32", json!(f64::from(*value))),
            Entry::Bool(value) => ("BOOL", json!(value)),
            Entry::Text(text) => ("STRING", json!(text)),
            Entry::I32s(values) => ("ARRAY/INT32", json!(values)),
            Entry::F32s(values) => {
                ("ARRAY/FLOAT32", values.iter().map(|value| f64::from(*value)).collect::<Vec<_>>().into())
            }
            Entry::Bools(values) => ("ARRAY/BOOL", json!(values)),
            Entry::Texts(texts) => ("ARRAY/STRING", json!(texts)),
        };
        (key.to_owned(), json!([kind, value]))
    });
    let metadata: Map<String, Value> = keys.collect();
    let mut tensors = Map::new();
    for info in file.tensors() {
        let (_, bytes) = file.tensor(&info.name).unwrap();
        tensors.insert(
            info.name.clone(),
            json!([info.kind.to_string(), info.shape, hex(Sha256::digest(&**bytes))]),
        );
    }
    json!({"metadata": metadata, "tensors": tensors})
}

fn expect_same(case: &str, found: &Value, expected: &Value) {
    for part in ["metadata", "tensors"] {
        let (found, expected) = (found[part].as_object().unwrap(), expected[part].as_object().unwrap());
        for (name, value) in expected {
            assert_eq!(found.get(name), Some(value), "{case}: {name}");
        }
        let more: Vec<&String> = found.keys().filter(|name| !expected.contains_key(*name)).collect();
        assert!(more.is_empty(), "{case}: {more:?}");
    }
}

/// A model among the references in a directory of its own, without its layers from the first that is no mixture, which
/// llama.cpp has no names for.
fn model_of(family: &str, directory: &Path) -> Value {
    let source = golden("models").join(family);
    let mut json: Value =
        serde_json::from_slice(&std::fs::read(source.join("config.json")).unwrap()).unwrap();
    let weights = Checkpoint::open(&source).unwrap();
    let mut tensors: Vec<Tensor> = weights.names().map(|name| weights.tensor(name).unwrap()).collect();
    if let Some(first) = json.pointer("/mlp_only_layers/0").cloned() {
        let is_kept = |layer: &str| layer.parse::<u64>().unwrap() < first.as_u64().unwrap();
        tensors.retain(|tensor| {
            let rest = tensor.name.strip_prefix("model.layers.");
            rest.is_none_or(|rest| is_kept(rest.split('.').next().unwrap()))
        });
        json["num_hidden_layers"] = first;
        json["mlp_only_layers"] = json!([]);
    }
    if json["model_type"] == "ministral3" {
        // The converter wants what the published models have.
        json["rope_parameters"]["mscale"] = 1.0.into();
        json["rope_parameters"]["mscale_all_dim"] = 1.0.into();
    }
    write_file(&directory.join("model.safetensors"), &tensors).unwrap();
    std::fs::write(directory.join("config.json"), json.to_string()).unwrap();
    json
}

/// What llama.cpp computes where its files do not say what this config.json does: no windows, or those of the real
/// models, and scores of Gemma scaled by the size of a head.
fn as_llama_cpp_has_it(mut json: Value) -> Value {
    if let Some(text) = json.get_mut("text_config") {
        *text = as_llama_cpp_has_it(text.take());
    }
    match json["model_type"].as_str().unwrap() {
        "qwen2" | "qwen2_moe" => json["use_sliding_window"] = false.into(),
        "mistral" => json["sliding_window"] = Value::Null,
        "gemma2" => json["query_pre_attn_scalar"] = json["head_dim"].clone(),
        "gemma3_text" => {
            json["query_pre_attn_scalar"] = json["head_dim"].clone();
            json["layer_types"] = json!(["sliding_attention", "sliding_attention"]);
        }
        _ => {}
    }
    json
}

/// Compares the logits of some tokens.
fn expect_same_logits(case: &str, models: &[Model; 2], tolerance: f32) {
    let tokens = [3, 1, 4, 15, 9, 26, 5, 35, 8, 9, 7, 9];
    let rows: Vec<u32> = (0..tokens.len() as u32).collect();
    let [expected, found] =
        models.each_ref().map(|model| model.logits(&Batch::prompt(&tokens, 0), &rows, Cache::None).unwrap());
    let largest = expected.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
    assert!(largest > 0.01 && expected.len() == found.len(), "{case}");
    for (expected, found) in expected.iter().zip(&found) {
        assert!((expected - found).abs() <= tolerance * largest, "{case}: {expected} {found}");
    }
}

fn expected(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden("gguf").join(format!("{name}.json"))).unwrap()).unwrap()
}

#[test]
fn files_of_every_family_are_those_of_the_converter() {
    for family in &families() {
        let expected = expected(family);
        let place = tempfile::tempdir().unwrap();
        let texts = place.path().join("texts");
        std::fs::create_dir(&texts).unwrap();
        copy_all(&golden("gguf/tokenizers").join(expected["tokenizer"].as_str().unwrap()), &texts);
        let model = place.path().join("model");
        std::fs::create_dir(&model).unwrap();
        let json = model_of(family, &model);
        std::fs::copy(model.join("config.json"), texts.join("config.json")).unwrap();
        let sampling = json!({"temperature": 0.7, "top_p": 0.8, "top_k": 20});
        std::fs::write(texts.join("generation_config.json"), sampling.to_string()).unwrap();

        let base = Base::open(&model).unwrap();
        let plan = MergePlan::new(&base, &[], &[], u64::MAX, false).unwrap();
        let architecture = Architecture::of(&base.config).unwrap();
        let text = text_config(&base.config).unwrap();
        let config = Config::parse(&text).unwrap();
        let tensors =
            tensors::tensors(&plan, architecture.family, &text, &config, Quantization::F16).unwrap();
        let infos = model::infos(&tensors);
        let path = place.path().join(format!("{family}.gguf"));
        let mut metadata = Metadata::default();
        let file_type = Quantization::F16.file_type();
        general::write_keys(architecture.family.name, &path, &texts, &infos, file_type, &mut metadata)
            .unwrap();
        architecture.write_keys(&text, &config, &mut metadata).unwrap();
        vocabulary::write(&texts, architecture.vocabulary, config.vocabulary, Some("smollm"), &mut metadata)
            .unwrap();
        ModelTensors { metadata, tensors }.write(&path).unwrap();
        expect_same(family, &described(&GgufFile::open(&path).unwrap()), &expected);
        std::fs::write(model.join("config.json"), as_llama_cpp_has_it(json).to_string()).unwrap();
        if family == "llama3-rope" {
            // Its bounds of frequencies are those of no real model.
            let error = Model::load(&path, &Device::Cpu).err().unwrap().to_string();
            assert!(error.contains("rope_freqs.weight scales angles as neither Llama 3.1"), "{error}");
            continue;
        }
        let models = [model, path].map(|model| Model::load(&model, &Device::Cpu).unwrap());
        expect_same_logits(family, &models, 1e-5);
    }
}

/// A model with a real tokenizer; the references have hashes of long lists and of all tensors together.
#[test]
fn files_of_smollm2_are_those_of_the_converter_and_llama_quantize() {
    let Some(model) = ::tests::needs::model() else { return };
    let expected = expected("smollm2");
    for (kind, quantization) in
        [("bf16", None), ("q8_0", Some(Quantization::Q8_0)), ("q4_k_m", Some(Quantization::Q4KM))]
    {
        let place = tempfile::tempdir().unwrap();
        let content = Content::Model(quantization);
        let request = Request {
            adapters: Vec::new(),
            file: None,
            weights: Vec::new(),
            base: model.clone(),
            output: place.path().join("SmolLM2-135M-Instruct.gguf"),
            gguf: Some(content),
            shard_size: u64::MAX,
            requantize: false,
            verify: false,
            force: false,
        };
        let path = export(&request, content).unwrap();
        let file = GgufFile::open(&path).unwrap();
        let mut found = described(&file);
        for (_, entry) in found["metadata"].as_object_mut().unwrap() {
            if entry[1].as_array().is_some_and(|list| list.len() > 64) {
                entry[1] = hex(Sha256::digest(entry[1].to_string())).into();
            }
        }
        // Weights of 16 bits are read as they are. Those of q8_0 are off by half a step of 8 bits, through 30 layers.
        let tolerance = [("bf16", 1e-5), ("q8_0", 0.1)].iter().find(|(named, _)| *named == kind);
        if let Some((_, tolerance)) = tolerance {
            let models = [&model, &path].map(|model| Model::load(model, &Device::Cpu).unwrap());
            expect_same_logits(kind, &models, *tolerance);
        }
        let tensors = found["tensors"].as_object().unwrap().iter();
        let mut lines: Vec<(&String, &Value)> = tensors.collect();
        lines.sort_unstable_by_key(|(name, _)| *name);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let lines: String = lines
            .iter()
            .map(|(name, entry)| format!("{name} {} {}\n", text(&entry[0]), text(&entry[2])))
            .collect();
        let mut metadata = expected["bf16"]["metadata"].as_object().unwrap().clone();
        metadata.extend(expected[kind]["metadata"].as_object().unwrap().clone());
        let hash = json!({"all": hex(Sha256::digest(lines))});
        expect_same(
            kind,
            &json!({"metadata": found["metadata"], "tensors": hash}),
            &json!({"metadata": metadata, "tensors": {"all": expected[kind]["tensors"]}}),
        );
    }
}

/// The tokenizer in `directory`, written into a GGUF file of this family with this number of rows, under another name for
/// its way to cut texts where `cut` has one, and read again.
fn read_again(directory: &Path, family: &str, rows: usize, cut: Option<&str>) -> Tokenizer {
    let place = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json", "tokenizer.model"] {
        if let Ok(bytes) = std::fs::read(directory.join(name)) {
            std::fs::write(place.path().join(name), bytes).unwrap();
        }
    }
    std::fs::write(place.path().join("config.json"), "{}").unwrap();
    let mut metadata = Metadata::default();
    metadata.set_text("general.architecture", family);
    let counts = [
        "embedding_length",
        "block_count",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "context_length",
    ];
    counts.iter().for_each(|key| metadata.set_count(format!("{family}.{key}"), 1).unwrap());
    metadata.set(format!("{family}.attention.layer_norm_rms_epsilon"), Entry::F32(1e-6));
    let kind = Architecture::of(&json!({"model_type": family})).unwrap().vocabulary;
    vocabulary::write(place.path(), kind, rows, cut, &mut metadata).unwrap();
    let info = TensorInfo { name: "token_embd.weight".into(), shape: vec![rows, 1], kind: TensorType::F32 };
    let path = place.path().join("x.gguf");
    let writer = GgufWriter::create(&path, &metadata, std::slice::from_ref(&info)).unwrap();
    writer.write_part(&info.name, 0, &vec![0; 4 * rows]).unwrap();
    writer.finish().unwrap();
    Tokenizer::of(&text_files(&path).unwrap()).unwrap()
}

#[test]
fn byte_level_tokenizers_are_read_again_as_they_were() {
    let qwen = ::tests::needs::shared("data/qwen2.5-tokenizer");
    for (directory, family, rows) in [(::tests::needs::model(), "llama", 49_152), (qwen, "qwen2", 151_936)] {
        let Some(directory) = directory else { continue };
        let (found, expected) =
            (read_again(&directory, family, rows, None), Tokenizer::load(&directory).unwrap());
        for text in [
            " I've 3 33 3333 \n\n \t\t  🦙🦙 ✅ កាន់ нещо 我想在apple工作 'RE ````\"\"\" ......!! ",
            "<|im_start|>user\nWhat's 1234567890?<|im_end|>\n",
            "fn main() {\n\tprintln!(\"é\u{301} ＡＢＣ\");\n}\n",
        ] {
            let ids = expected.encode(text).unwrap();
            assert_eq!(found.encode(text).unwrap(), ids, "{family}: {text}");
            let as_data = expected.encode_data(text).unwrap();
            assert_eq!(found.encode_data(text).unwrap(), as_data, "{family}: {text}");
            assert_eq!(found.decode_with_special(&ids).unwrap(), expected.decode_with_special(&ids).unwrap());
        }
    }
}

#[test]
fn texts_are_cut_as_llama_cpp_cuts_them() {
    let expected = expected("pre_tokenizers");
    for (name, of_texts) in expected["ids"].as_object().unwrap() {
        let found = read_again(&golden("gguf/tokenizers/cuts"), "llama", 768, Some(name));
        for (text, ids) in expected["texts"].as_array().unwrap().iter().zip(of_texts.as_array().unwrap()) {
            let ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
            assert_eq!(found.encode(text.as_str().unwrap()).unwrap(), ids, "{name}: {text}");
        }
    }
}

/// The pieces that SentencePiece itself makes of texts.
#[test]
fn sentence_pieces_are_read_again_as_they_were() {
    let found = read_again(&golden("gguf/tokenizers/spm"), "llama", 96, None);
    let expected = expected("pieces");
    for (text, ids) in expected.as_object().unwrap() {
        let ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
        assert_eq!(found.encode(text).unwrap(), ids, "{text}");
        assert_eq!(found.decode_with_special(&ids).unwrap(), *text);
    }
}

#[test]
fn adapters_of_every_family_are_those_of_the_converter() {
    for family in families().iter().filter(|family| golden(&format!("gguf/adapter-{family}.json")).exists()) {
        let directory = golden("models").join(family);
        let json: Value =
            serde_json::from_slice(&std::fs::read(directory.join("config.json")).unwrap()).unwrap();
        let adapter = Adapter::load(&directory.join("adapter")).unwrap();
        let (architecture, config) = (Architecture::of(&json).unwrap(), Config::parse(&json).unwrap());
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("adapter.gguf");
        AdapterTensors::new(&adapter, architecture.family, &config, &path).unwrap().write(&path).unwrap();
        let found = described(&GgufFile::open(&path).unwrap());
        expect_same(family, &found, &expected(&format!("adapter-{family}")));
    }
}

#[test]
fn unknown_families_are_refused_by_name() {
    let error = Architecture::of(&json!({"model_type": "mamba"})).err().unwrap();
    assert!(error.to_string().contains("mamba") && error.hint_text().unwrap().contains("qwen2"), "{error}");
}

#[test]
fn what_llama_cpp_would_compute_otherwise_is_refused() {
    for (family, key, value, expected) in [
        ("gemma3", "attention_dropout", json!(0.0), "query_pre_attn_scalar is 24, in llama.cpp 32"),
        ("gemma3", "query_pre_attn_scalar", json!(32), "layer 1 has no sliding window"),
        ("qwen3-moe", "norm_topk_prob", json!(true), "layer 1 has no experts"),
        ("olmoe", "norm_topk_prob", json!(true), "norm_topk_prob is true, in llama.cpp false"),
    ] {
        let text = std::fs::read(golden("models").join(family).join("config.json")).unwrap();
        let mut json: Value = serde_json::from_slice(&text).unwrap();
        json[key] = value;
        let config = Config::parse(&json).unwrap();
        let error = Architecture::of(&json).unwrap().check(&config).unwrap_err().to_string();
        assert!(error.contains(expected), "{family}: {error}");
    }
}

/// An adapter of experts has no place in a file of an adapter.
#[test]
fn adapters_of_experts_are_refused() {
    let directory = golden("models/olmoe");
    let json: Value = serde_json::from_slice(&std::fs::read(directory.join("config.json")).unwrap()).unwrap();
    let adapter = Adapter::load(&directory.join("adapter")).unwrap();
    let config = Config::parse(&json).unwrap();
    let family = Architecture::of(&json).unwrap().family;
    let error = AdapterTensors::new(&adapter, family, &config, Path::new("x.gguf")).err().unwrap();
    assert!(error.to_string().contains("experts") && error.hint_text().is_some(), "{error}");
}
