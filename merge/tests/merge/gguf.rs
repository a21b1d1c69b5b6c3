//! GGUF files as a user makes them. Their content is compared with llama.cpp's in the unit tests of `gguf`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use common::checkpoint::{Checkpoint, Tensor, write_file};
use common::gguf::{GgufFile, Value};
use tests::dir::Dir;

use crate::place::*;

/// A tiny Mistral, as [`workplace_of`] has it.
fn workplace() -> Dir {
    workplace_of("mistral")
}

/// A tiny model in f32 with an adapter and a SentencePiece tokenizer, and `words`, the model with byte-level BPE.
fn workplace_of(family: &str) -> Dir {
    let parent = Dir::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let copy = |from: &str, to: &str| {
        let to = parent.path(to);
        fs::create_dir_all(&to).unwrap();
        for entry in fs::read_dir(golden.join(from)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
            }
        }
    };
    let model = format!("models/{family}");
    copy(&model, "base");
    copy("gguf/tokenizers/spm", "base");
    copy(&model, "words");
    copy("gguf/tokenizers/bpe", "words");
    copy(&format!("{model}/adapter"), "adapter");
    // In f32, the directory of a merged model holds the sums as they are.
    let weights = parent.path("base/model.safetensors");
    let checkpoint = Checkpoint::open_file(&weights).unwrap();
    let wide = checkpoint.names().map(|name| {
        let tensor = checkpoint.tensor(name).unwrap();
        Tensor::from_f32(name, tensor.shape.clone(), &tensor.to_f32().unwrap())
    });
    let wide: Vec<Tensor> = wide.collect();
    drop(checkpoint);
    fs::remove_file(&weights).unwrap();
    write_file(&weights, &wide).unwrap();
    parent
}

#[test]
fn a_file_of_an_adapter_is_that_of_the_merged_model() {
    let parent = workplace();
    let base = ["--base", "base"];
    run(&parent, &[&["adapter", "-o", "merged"], &base[..]].concat()).success();
    for kind in ["f16", "q8_0"] {
        run(&parent, &["merged", "-o", "model.gguf", "--quantize", kind, "--force"]).success();
        let of_merged = parent.bytes("model.gguf");
        let arguments = ["adapter", "-o", "model.gguf", "--quantize", kind, "--force"];
        let assert = run(&parent, &[&arguments[..], &base].concat()).success();
        assert_eq!(assert.get_output().stdout, b"model.gguf\n");
        assert!(parent.bytes("model.gguf") == of_merged, "{kind}");
    }
    run(&parent, &["base", "-o", "model.gguf", "--quantize", "f16", "--force"]).success();
    let file = GgufFile::open(&parent.path("model.gguf")).unwrap();
    assert_eq!(file.metadata.get("general.name"), Some(&Value::Text("Model".into())));
    let modelfile = fs::read_to_string(parent.path("model.Modelfile")).unwrap();
    assert!(modelfile.starts_with("FROM ./model.gguf\n"), "{modelfile}");
    assert!(
        modelfile.contains("\nTEMPLATE \"\"\"") && modelfile.contains("\nPARAMETER stop \"<|im_end|>\"\n")
    );
    let left = ["adapter", "base", "merged", "model.Modelfile", "model.gguf", "words"];
    assert_eq!(parent.names("."), left);
}

/// An adapter of a mixture changes the matrices of all experts.
#[test]
fn experts_are_merged_into_a_file_as_into_a_directory() {
    let parent = workplace_of("mixtral");
    let quantize = ["-o", "model.gguf", "--quantize", "q8_0", "--force"];
    run(&parent, &["adapter", "--base", "base", "-o", "merged"]).success();
    run(&parent, &[&["merged"], &quantize[..]].concat()).success();
    let of_merged = parent.bytes("model.gguf");
    run(&parent, &[&["base"], &quantize[..]].concat()).success();
    assert!(parent.bytes("model.gguf") != of_merged, "the adapter changes something");
    run(&parent, &[&["adapter", "--base", "base"], &quantize[..]].concat()).success();
    assert!(parent.bytes("model.gguf") == of_merged);
    let error = stderr_of(&run(&parent, &["adapter", "--base", "base", "--adapter-gguf"]).code(1));
    assert!(
        error.contains("no adapters of experts") && error.contains("\nhint: merge into a .gguf"),
        "{error}"
    );
}

/// The weights that read images have no place in the file of a text model.
#[test]
fn a_model_that_reads_images_gives_the_file_of_its_text_model() {
    let parent = workplace_of("gemma3-vision");
    // As llama.cpp scales scores and places windows.
    let path = parent.path("base/config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["text_config"]["query_pre_attn_scalar"] = config["text_config"]["head_dim"].clone();
    config["text_config"]["layer_types"] = ["sliding_attention"; 2].into_iter().collect();
    fs::write(&path, config.to_string()).unwrap();
    run(&parent, &["adapter", "--base", "base", "-o", "merged"]).success();
    let quantize = ["-o", "model.gguf", "--quantize", "q8_0", "--force"];
    run(&parent, &[&["merged"], &quantize[..]].concat()).success();
    let of_merged = parent.bytes("model.gguf");
    let said = stderr_of(&run(&parent, &[&["adapter", "--base", "base"], &quantize[..]].concat()).success());
    assert!(said.contains("the weights that read images are left out"), "{said}");
    assert!(!said.contains("stay as they are"), "{said}");
    assert!(parent.bytes("model.gguf") == of_merged);
    let file = GgufFile::open(&parent.path("model.gguf")).unwrap();
    assert_eq!(file.metadata.get("general.architecture"), Some(&Value::Text("gemma3".into())));
    run(&parent, &["adapter", "--base", "base", "--adapter-gguf"]).success();
}

#[test]
fn an_adapter_alone_has_a_file_of_its_own() {
    let parent = workplace();
    let arguments = ["adapter", "--base", "base", "--adapter-gguf"];
    let assert = run(&parent, &arguments).success();
    assert_eq!(assert.get_output().stdout, b"adapter.gguf\n");
    let file = GgufFile::open(&parent.path("adapter.gguf")).unwrap();
    assert_eq!(file.metadata.get("general.type"), Some(&Value::Text("adapter".into())));
    let error = stderr_of(&run(&parent, &["base", "--adapter-gguf"]).code(1));
    assert!(error.contains("adapter_config.json") && error.contains("\nhint: "), "{error}");
}

#[test]
fn what_cannot_be_a_gguf_file_is_refused_and_leaves_nothing() {
    let parent = workplace();
    let before = parent.names(".");
    for (arguments, code, named) in [
        (&["words", "-o", "x.gguf"][..], 1, "no name for this tokenizer's way to cut texts"),
        (&["base", "-o", "x", "--quantize", "q8_0"], 2, "x does not end in .gguf"),
        (&["base", "-o", "x.gguf", "--verify"], 2, "no --verify"),
        (&["base", "-o", "x.gguf", "--shard-size", "1GB"], 2, "no --shard-size"),
        (&["base", "-o", "base/x.gguf"], 2, "lies in the input base"),
        (&["adapter", "adapter", "--base", "base", "-o", "x.gguf", "--adapter-gguf"], 2, "takes one adapter"),
    ] {
        let error = stderr_of(&run(&parent, arguments).code(code));
        assert!(error.contains(named) && error.contains("\nhint: "), "{arguments:?}: {error}");
    }
    assert_eq!(parent.names("."), before);
    parent.write("x.gguf", "mine");
    let error = stderr_of(&run(&parent, &["base", "-o", "x.gguf"]).code(1));
    assert!(error.contains("x.gguf exists") && error.contains("\nhint: "), "{error}");
    assert_eq!(parent.bytes("x.gguf"), b"mine");
}

#[test]
fn a_run_that_is_killed_leaves_nothing_or_the_whole() {
    let parent = workplace();
    let arguments = ["base", "-q", "-o", "model.gguf", "--quantize", "q8_0"];
    let begun = Instant::now();
    run(&parent, &arguments).success();
    let (whole, expected) = (begun.elapsed(), parent.bytes("model.gguf"));
    let beside = parent.names(".");
    for kill in 0..20 {
        for name in ["model.gguf", "model.Modelfile"] {
            fs::remove_file(parent.path(name)).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_merge"));
        let mut child =
            command.current_dir(parent.path("")).args(arguments).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole.mul_f64(f64::from(kill) / 20.0));
        child.kill().unwrap();
        child.wait().unwrap();
        let is_placed = parent.path("model.gguf").exists();
        assert!(!is_placed || parent.bytes("model.gguf") == expected, "kill {kill}");
        // The same command makes both, or says that they are there.
        let left = parent.names(".");
        let again = run(&parent, &arguments);
        let stderr = stderr_of(&again);
        assert!(stderr.is_empty() || is_placed && stderr.contains(" exists\nhint: "), "{left:?}: {stderr}");
        assert_eq!(parent.names("."), beside, "kill {kill}: {left:?}");
        assert!(parent.bytes("model.gguf") == expected, "kill {kill}");
    }
}
