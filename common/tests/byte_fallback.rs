//! Tokenizers with byte fallback, whose spaces are written as ▁, against the tokenizers library. The
//! goldens are written by scripts/golden/byte_fallback.py.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::path::{Path, PathBuf};

use common::text::labels::{encode_document, encode_prompt};
use common::text::{ChatTemplate, Conversation, Message, StreamDecoder, Tokenizer};
use serde::Deserialize;

const SHAPES: [&str; 4] = ["gemma", "llama", "mistral", "phi3"];

/// A text, its ids, and its text again.
#[derive(Deserialize)]
struct Case {
    text: String,
    ids: Vec<u32>,
    document: Vec<u32>,
    decoded: String,
    pieces: Vec<String>,
}

fn directory(shape: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tokenizers").join(shape)
}

fn tokenizer(shape: &str) -> Tokenizer {
    Tokenizer::load(&directory(shape)).unwrap()
}

fn cases(shape: &str) -> Vec<Case> {
    serde_json::from_str(&std::fs::read_to_string(directory(shape).join("golden.json")).unwrap()).unwrap()
}

/// Whether the text of a special token stands in a case.
fn has_special(tokenizer: &Tokenizer, case: &Case) -> bool {
    case.ids.iter().any(|&id| tokenizer.is_special(id))
}

#[test]
fn texts_become_the_ids_of_the_library_and_ids_its_texts() {
    for shape in SHAPES {
        let tokenizer = tokenizer(shape);
        for case in cases(shape) {
            assert_eq!(tokenizer.encode(&case.text).unwrap(), case.ids, "{shape}: {:?}", case.text);
            assert_eq!(tokenizer.decode(&case.ids).unwrap(), case.decoded, "{shape}: {:?}", case.text);
            let document = encode_document(&tokenizer, &case.text).unwrap();
            match has_special(&tokenizer, &case) {
                false => assert_eq!(document, case.document, "{shape}: {:?}", case.text),
                true => assert_eq!(document[0], case.document[0], "{shape}: {:?}", case.text),
            }
            let bos = |id: &&u32| **id == case.document[0];
            assert_eq!(document.iter().filter(bos).count(), 1, "{shape}: {:?}", case.text);
        }
    }
}

#[test]
fn ids_become_text_piece_by_piece_as_in_the_library() {
    for shape in SHAPES {
        let tokenizer = tokenizer(shape);
        for case in cases(shape) {
            let mut stream = StreamDecoder::new(&tokenizer);
            let pieces: Vec<String> = case.ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            assert_eq!(pieces, case.pieces, "{shape}: {:?}", case.text);
            assert_eq!(stream.finish().unwrap(), "", "{shape}: {:?}", case.text);
        }
    }
}

/// A text in which nothing is special keeps its characters, wherever it is cut.
#[test]
fn data_never_becomes_a_special_token() {
    for shape in SHAPES {
        let tokenizer = tokenizer(shape);
        for case in cases(shape) {
            let data = tokenizer.encode_data(&case.text).unwrap();
            let special = data.iter().filter(|&&id| tokenizer.is_special(id)).count();
            assert_eq!(special, 0, "{shape}: {:?}", case.text);
            // The library writes ▁ as a space, and may drop the first space of a text.
            let expected = match has_special(&tokenizer, &case) {
                false => case.decoded,
                true => case.text.replace('▁', " "),
            };
            assert_eq!(tokenizer.decode(&data).unwrap(), expected, "{shape}");
        }
    }
}

/// The parts of a text that is cut have the tokens of the whole text, where no token reaches across a cut.
#[test]
fn a_cut_puts_no_space_into_a_text() {
    for shape in SHAPES {
        let tokenizer = tokenizer(shape);
        for case in cases(shape).iter().filter(|case| !has_special(&tokenizer, case)) {
            let whole = tokenizer.encode_rendered(&case.text, &[], &[]).unwrap();
            let starts: Vec<usize> = whole.offsets.iter().map(|range| range.start).collect();
            for &cut in starts.iter().filter(|&&start| case.text.is_char_boundary(start)) {
                let cut = tokenizer.encode_rendered(&case.text, &[], &[cut]).unwrap();
                let text = tokenizer.decode(&cut.ids).unwrap();
                assert_eq!(text, case.decoded, "{shape}: {:?} {:?}", case.text, cut);
            }
        }
    }
}

/// Templates write the first token themselves, and the tokenizer would add it again.
#[test]
fn a_prompt_begins_with_one_bos() {
    let source = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}";
    for shape in SHAPES {
        let tokenizer = tokenizer(shape);
        let template = ChatTemplate::from_source(source, tokenizer.special_tokens().clone()).unwrap();
        let bos = cases(shape)[0].document[0];
        let text = tokenizer.special_tokens()["bos_token"].as_str().unwrap();
        let messages = vec![Message::new("user", format!("a{text}b"))];
        let conversation = Conversation { messages, tools: Vec::new() };
        let prompt = encode_prompt(&tokenizer, &template, &conversation).unwrap();
        assert_eq!(prompt.iter().filter(|&&id| id == bos).count(), 1, "{shape}: {prompt:?}");
        assert_eq!(prompt[0], bos, "{shape}");
    }
}
