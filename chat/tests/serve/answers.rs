//! What is answered: the same as by `chat` itself, whole and piece by piece, by each model.

use std::process::Stdio;

use serde_json::{Value, json};

use crate::client::{Server, chat};

/// What `chat --json` answers each message with, greedily, in 12 tokens.
fn said_by_chat(server: &Server, model: &str, messages: &[String]) -> Vec<String> {
    let mut command = chat(&server.directory(), &[model, "--json", "--max-new-tokens", "12"]);
    let input: String = messages
        .iter()
        .map(|message| format!("{}\n", json!([{"role": "user", "content": message}])))
        .collect();
    let path = server.directory().join("input.jsonl");
    fs_err::write(&path, input).unwrap();
    let input = fs_err::File::open(path).unwrap();
    let output = command.stdin(Stdio::from(input.into_parts().0)).output().unwrap();
    assert!(output.status.success());
    let answers = String::from_utf8(output.stdout).unwrap();
    let content =
        |line: &str| serde_json::from_str::<Value>(line).unwrap()["content"].as_str().unwrap().to_owned();
    answers.lines().map(content).collect()
}

#[test]
fn models_by_name_answer_as_chat_does() {
    let server = Server::start(&[]);
    let messages: Vec<String> = ["Hello", "How are you?"].map(str::to_owned).to_vec();
    let (base, tuned) =
        (said_by_chat(&server, "model", &messages), said_by_chat(&server, "adapter", &messages));
    assert_ne!(base, tuned);
    for (index, message) in messages.iter().enumerate() {
        assert_eq!(
            server.ask(message, json!({})).text(),
            base[index],
            "the first model, where none is named"
        );
        assert_eq!(server.ask(message, json!({"model": "model"})).text(), base[index]);
        assert_eq!(server.ask(message, json!({"model": "tuned"})).text(), tuned[index]);
    }
    let models = server.get("/v1/models").json();
    let names: Vec<&Value> = models["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(names, ["model", "tuned"]);
    assert_eq!(server.get("/v1/models/tuned").json()["max_model_len"], 4096);
    let unknown = server.get("/v1/models/other");
    assert_eq!((unknown.status, unknown.json()["error"]["code"].clone()), (404, json!("model_not_found")));
}

#[test]
fn a_whole_answer_says_how_it_ended_and_what_it_took() {
    let server = Server::start(&[]);
    let answer = server.ask("Hello", json!({})).json();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    // <|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n, a token for each byte and mark.
    let usage = json!({"prompt_tokens": 24, "completion_tokens": 12, "total_tokens": 36});
    assert_eq!(answer["usage"], usage);
}

#[test]
fn a_stream_has_the_same_text_in_pieces() {
    let server = Server::start(&[]);
    let whole = server.ask("Hello", json!({}));
    let stream = server.ask("Hello", json!({"stream": true, "stream_options": {"include_usage": true}}));
    assert!(stream.head.contains("content-type: text/event-stream"), "{}", stream.head);
    let mut events = stream.events();
    let last = events.pop().unwrap();
    assert_eq!((&last["usage"], &last["choices"]), (&whole.json()["usage"], &json!([])));
    assert!(
        events.iter().all(|event| event["object"] == "chat.completion.chunk" && event["usage"].is_null())
    );
    let choices: Vec<&Value> = events.iter().map(|event| &event["choices"][0]).collect();
    assert_eq!(choices[0]["delta"], json!({"role": "assistant", "content": ""}));
    let text: String = choices.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
    assert_eq!(text, whole.text());
    assert!(choices.len() > 4, "more than one piece: {choices:?}");
    let reasons: Vec<&Value> = choices.iter().map(|choice| &choice["finish_reason"]).collect();
    let (last, others) = reasons.split_last().unwrap();
    assert!(*last == "length" && others.iter().all(|reason| reason.is_null()));
}

#[test]
fn a_seed_repeats_choices_and_choices_differ() {
    let server = Server::start(&[]);
    let texts = |more: Value| -> Vec<String> {
        let answer = server.ask("Hello", more).json();
        let choices = answer["choices"].as_array().unwrap();
        choices.iter().map(|choice| choice["message"]["content"].as_str().unwrap().to_owned()).collect()
    };
    let sampled = texts(json!({"temperature": 1.5, "seed": 1, "n": 3}));
    assert_eq!(sampled, texts(json!({"temperature": 1.5, "seed": 1, "n": 3})));
    assert!(sampled[0] != sampled[1] && sampled[1] != sampled[2], "{sampled:?}");
    assert_ne!(sampled, texts(json!({"temperature": 1.5, "seed": -2, "n": 3})));
    assert_ne!(texts(json!({"temperature": 1.5})), texts(json!({"temperature": 1.5})), "without a seed");
    let stream = server.ask("Hello", json!({"temperature": 1.5, "seed": 1, "n": 3, "stream": true}));
    let mut pieces = vec![String::new(); 3];
    for event in stream.events() {
        let choice = &event["choices"][0];
        let text = choice["delta"]["content"].as_str().unwrap_or_default();
        pieces[choice["index"].as_u64().unwrap() as usize] += text;
    }
    assert_eq!(pieces, sampled);
}

#[test]
fn an_answer_ends_at_the_texts_of_the_request() {
    let server = Server::start(&[]);
    let whole = server.ask("Hello", json!({"temperature": 5, "seed": 1, "max_tokens": 100})).text();
    let letters: Vec<(usize, char)> = whole.char_indices().collect();
    let pair = letters.windows(2).skip(2).find(|pair| pair.iter().all(|(_, c)| c.is_ascii_graphic()));
    let begin = pair.expect("two printable characters in the answer of a random model")[0].0;
    let stop = &whole[begin..begin + 2];
    let more = json!({"temperature": 5, "seed": 1, "max_tokens": 100, "stop": ["no such text", stop]});
    let short = server.ask("Hello", more);
    assert_eq!(short.text(), whole[..whole.find(stop).unwrap()], "{whole:?} to {stop:?}");
    assert_eq!(short.json()["choices"][0]["finish_reason"], "stop");
}

#[test]
fn tokens_have_the_log_probabilities_that_they_were_chosen_by() {
    let server = Server::start(&[]);
    let answer = server.ask("Hello", json!({"logprobs": true, "top_logprobs": 3})).json();
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    assert_eq!(content.len(), 12);
    for token in &content {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["logprob"]), (3, &token["logprob"]), "the likeliest is taken");
        let values: Vec<f64> = top.iter().map(|token| token["logprob"].as_f64().unwrap()).collect();
        assert!(values.is_sorted_by(|a, b| a >= b) && values[0] < 0.0, "{values:?}");
    }
    let stream = server.ask("Hello", json!({"logprobs": true, "top_logprobs": 3, "stream": true}));
    let pieces: Vec<Value> = stream
        .events()
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array().cloned())
        .flatten()
        .collect();
    // The prompt was known the second time, so that it was rounded otherwise.
    let parts = |tokens: &[Value]| -> Vec<(Value, f64)> {
        tokens.iter().map(|token| (token["token"].clone(), token["logprob"].as_f64().unwrap())).collect()
    };
    for (piece, token) in parts(&pieces).iter().zip(parts(&content)) {
        assert!(piece.0 == token.0 && (piece.1 - token.1).abs() < 1e-4, "{piece:?} {token:?}");
    }
    assert_eq!(pieces.len(), content.len());
}

#[test]
fn texts_and_tokens_are_continued() {
    let server = Server::start(&[]);
    let complete = |prompt: Value, more: Value| {
        let mut fields = json!({"prompt": prompt, "max_tokens": 6});
        more.as_object().unwrap().iter().for_each(|(name, value)| fields[name] = value.clone());
        server.post("/v1/completions", &fields)
    };
    let answer = complete(json!("ab"), json!({"logprobs": 2}));
    assert_eq!(answer.json()["object"], "text_completion");
    assert_eq!(answer.json()["usage"]["prompt_tokens"], 2);
    let logprobs = &answer.json()["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().unwrap().len(), 6);
    assert_eq!(logprobs["text_offset"][0], 0);
    // The tokens of a and b in the alphabet of bytes.
    let of_tokens = complete(json!([64, 65]), json!({}));
    assert_eq!(of_tokens.text(), answer.text());
    let several = complete(json!(["ab", "xyz"]), json!({})).json();
    assert_eq!(several["choices"][0]["text"], answer.text());
    assert_eq!(several["choices"][1]["text"], complete(json!("xyz"), json!({})).text());
    let stream = complete(json!("ab"), json!({"stream": true}));
    let text: String = stream
        .events()
        .iter()
        .filter_map(|event| event["choices"][0]["text"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(text, answer.text());
}

#[test]
fn what_was_said_before_is_not_computed_again() {
    let server = Server::start(&[]);
    let first = server.ask("Hello", json!({}));
    assert_eq!(server.metric("qlora_prompt_tokens_known_total"), 0);
    let messages = json!([
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": first.text()},
        {"role": "user", "content": "And then?"},
    ]);
    server.post("/v1/chat/completions", &json!({"messages": messages, "max_tokens": 1}));
    // The prompt of the first answer at least; bytes that form no character are not what was said.
    assert!(server.metric("qlora_prompt_tokens_known_total") >= 24);
    assert_eq!(server.metric("qlora_answers_completed_total"), 2);
    assert_eq!(server.metric("qlora_answer_tokens_total"), 13);
}

/// The choices of a request have one prompt, which is read once, and a token of each is computed in every pass.
#[test]
fn answers_are_written_in_the_same_passes() {
    let server = Server::start(&[]);
    let answer = server.ask("Hello", json!({"n": 8, "max_tokens": 50}));
    let alone = server.ask("Hello", json!({"max_tokens": 50}));
    for choice in answer.json()["choices"].as_array().unwrap() {
        assert_eq!(choice["message"]["content"], alone.text());
    }
    // Seven take 23 tokens of the prompt from the first. The last token is computed, for the logits after it.
    let tokens = alone.json()["usage"]["completion_tokens"].as_u64().unwrap();
    assert_eq!(server.metric("qlora_answer_tokens_total"), 9 * tokens);
    assert_eq!(server.metric("qlora_prompt_tokens_known_total"), 8 * 23);
    let passes = server.metric("qlora_passes_total");
    assert!(
        (2 * tokens..3 * tokens).contains(&passes),
        "{passes} passes for {tokens} tokens of nine answers"
    );
}

#[test]
fn many_clients_at_once_each_get_their_own_answer() {
    let server = Server::start(&["--max-sessions", "9"]);
    let messages: Vec<String> = (0..64).map(|client| format!("I am client {client}.")).collect();
    let of_model = [said_by_chat(&server, "model", &messages), said_by_chat(&server, "adapter", &messages)];
    std::thread::scope(|scope| {
        for (client, message) in messages.iter().enumerate() {
            let (server, expected) = (&server, &of_model[client % 2][client]);
            scope.spawn(move || {
                let model = ["model", "tuned"][client % 2];
                let more = json!({"model": model, "stream": client % 3 == 0});
                let answer = server.ask(message, more);
                let text = match client % 3 {
                    0 => {
                        let events = answer.events();
                        let content = |event: &Value| {
                            event["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
                        };
                        events.iter().filter_map(content).collect()
                    }
                    _ => answer.text(),
                };
                assert_eq!(text, *expected, "{message}");
            });
        }
    });
    assert_eq!(server.metric("qlora_answers_completed_total"), 64);
}
