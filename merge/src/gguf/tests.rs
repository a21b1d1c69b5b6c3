//! Files of tiny models of every family, compared with those of llama.cpp's converter.

use std::path::{Path, PathBuf};

use common::gguf::{GgufFile, Value as Entry};
use common::hex;
use serde_json::{Map, json};
use sha2::{Digest, Sha256};

use super::*;

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
        std::fs::copy(golden("models").join(family).join("config.json"), texts.join("config.json")).unwrap();
        let sampling = json!({"temperature": 0.7, "top_p": 0.8, "top_k": 20});
        std::fs::write(texts.join("generation_config.json"), sampling.to_string()).unwrap();

        let base = Base::open(&golden("models").join(family)).unwrap();
        let plan = MergePlan::new(&base, &[], &[], u64::MAX, false).unwrap();
        let architecture = Architecture::of(&base.config).unwrap();
        let config = Config::parse(&base.config).unwrap();
        let tensors =
            tensors::tensors(&plan, architecture, &base.config, &config, Quantization::F16).unwrap();
        let infos: Vec<TensorInfo> = tensors.iter().map(|tensor| tensor.info.clone()).collect();
        let path = place.path().join(format!("{family}.gguf"));
        let mut metadata = Metadata::default();
        let file_type = Quantization::F16.file_type();
        general::write_keys(architecture.name, &path, &texts, &infos, file_type, &mut metadata).unwrap();
        architecture.write_keys(&base.config, &config, &mut metadata).unwrap();
        vocabulary::write(&texts, architecture.vocabulary, config.vocabulary, Some("smollm"), &mut metadata)
            .unwrap();
        write_tensors(&path, &metadata, &tensors, &infos).unwrap();
        expect_same(family, &described(&GgufFile::open(&path).unwrap()), &expected);
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
        let file = GgufFile::open(&export(&request, content).unwrap()).unwrap();
        let mut found = described(&file);
        for (_, entry) in found["metadata"].as_object_mut().unwrap() {
            if entry[1].as_array().is_some_and(|list| list.len() > 64) {
                entry[1] = hex(Sha256::digest(entry[1].to_string())).into();
            }
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

#[test]
fn adapters_of_every_family_are_those_of_the_converter() {
    for family in &families() {
        let directory = golden("models").join(family);
        let json: Value =
            serde_json::from_slice(&std::fs::read(directory.join("config.json")).unwrap()).unwrap();
        let adapter = Adapter::load(&directory.join("adapter")).unwrap();
        let (architecture, config) = (Architecture::of(&json).unwrap(), Config::parse(&json).unwrap());
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("adapter.gguf");
        AdapterTensors::new(&adapter, architecture, &config, &path).unwrap().write(&path).unwrap();
        let found = described(&GgufFile::open(&path).unwrap());
        expect_same(family, &found, &expected(&format!("adapter-{family}")));
    }
}

#[test]
fn unknown_families_and_windows_are_refused_by_name() {
    let error = Architecture::of(&json!({"model_type": "mamba"})).err().unwrap();
    assert!(error.to_string().contains("mamba") && error.hint_text().unwrap().contains("qwen2"), "{error}");
    let json: Value =
        serde_json::from_slice(&std::fs::read(golden("models/gemma3/config.json")).unwrap()).unwrap();
    let config = Config::parse(&json).unwrap();
    let error = Architecture::of(&json).unwrap().check(&config).unwrap_err().to_string();
    assert!(error.contains("layer 1") && error.contains("window"), "{error}");
}
