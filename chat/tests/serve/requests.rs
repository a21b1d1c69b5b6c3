//! Requests that are refused, each with the reason.

use serde_json::{Value, json};

use crate::client::{Server, post, question};

#[test]
fn what_is_wrong_in_a_request_is_named() {
    let server = Server::start(&[]);
    let message = json!([{"role": "user", "content": "Hi"}]);
    for (more, expected) in [
        (json!({"messages": []}), "messages: 1 or more expected, found none"),
        (json!({"messages": null}), "messages: the field is missing"),
        (json!({"messages": "Hi"}), "messages: invalid type: string"),
        (json!({"messages": [{"role": "user"}]}), "messages[0]: a content expected"),
        (json!({"messages": [{"content": "Hi"}]}), "messages[0]: a role expected"),
        (json!({"max_tokens": 0}), "max_tokens: 1 or more expected"),
        (json!({"max_tokens": -1}), "max_tokens: invalid value: integer `-1`"),
        (json!({"temperature": -1}), "temperature: 0 or more expected, found -1"),
        (json!({"temperature": "hot"}), "temperature: invalid type: string \"hot\""),
        (json!({"top_p": 2}), "top_p: more than 0 and at most 1 expected, found 2"),
        (json!({"n": 0}), "n: 1 or more expected"),
        (json!({"n": 1000}), "n: 1 to 96 answers in all expected, found 1000"),
        (json!({"n": u64::MAX}), "n: 1 to 96 answers in all expected"),
        (json!({"stop": 1}), "stop: a text or a list of texts expected"),
        (json!({"stop": ""}), "stop: at most 16 texts of 1 to 1024 bytes expected"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs: at most 20 expected, found 21"),
        (json!({"top_logprobs": 1}), "top_logprobs: logprobs must be true"),
        (json!({"presence_penalty": 0.5}), "presence_penalty: not supported but as 0"),
        (
            json!({"response_format": {"type": "json_object"}}),
            "response_format: not supported but as {\"type\":\"text\"}",
        ),
        (json!({"max_token": 5}), "max_token: not a field that is known here"),
        (json!({"stream": "yes"}), "stream: invalid type: string \"yes\", expected a boolean"),
    ] {
        let mut fields = json!({"messages": message});
        more.as_object().unwrap().iter().for_each(|(name, value)| fields[name] = value.clone());
        let response = server.post("/v1/chat/completions", &fields);
        assert_eq!(response.status, 400, "{fields}: {response:?}");
        assert!(response.message().starts_with(expected), "{fields}: {}", response.message());
    }
    for (prompt, expected) in [
        (json!([]), "the prompt has no tokens"),
        (json!(""), "the prompt has no tokens"),
        (json!([5000]), "token 5000 is not one of the model's 260"),
        (json!({}), "prompt: a text, a list of tokens, or a list of either expected"),
        (json!("a".repeat(5000)), "the prompt has 5000 tokens, and the model takes 4096"),
    ] {
        let response = server.post("/v1/completions", &json!({"prompt": prompt}));
        assert_eq!(response.status, 400, "{prompt}: {response:?}");
        assert!(response.message().starts_with(expected), "{prompt}: {}", response.message());
    }
    // Nothing of this has an effect on the next one.
    assert_eq!(server.ask("Hi", json!({"user": "me", "logit_bias": {}, "n": null})).status, 200);
}

#[test]
fn a_conversation_that_is_too_long_is_refused_and_none_of_it_dropped() {
    let server = Server::start(&[]);
    let response = server.ask(&"a".repeat(4096), json!({}));
    assert_eq!(
        (response.status, &response.json()["error"]["code"]),
        (400, &json!("context_length_exceeded"))
    );
    let almost = server.ask(&"a".repeat(4070), json!({"max_tokens": 100}));
    assert_eq!(almost.json()["choices"][0]["finish_reason"], "length");
    assert_eq!(almost.json()["usage"]["total_tokens"], 4096);
}

#[test]
fn other_addresses_methods_and_types_are_refused() {
    let server = Server::start(&[]);
    let body = question("Hi", json!({})).to_string();
    let with = |name: &str, value: &str| {
        let request = post("/v1/chat/completions", &body);
        server.send(request.replace(name, value).as_bytes())
    };
    for (response, status, expected) in [
        (server.get("/v2"), 404, "there is nothing at GET /v2"),
        (server.get("/v1/chat/completions"), 405, "/v1/chat/completions does not take GET"),
        (with("application/json", "text/plain"), 415, "the header content-type: application/json expected"),
        (with("host: localhost", "host: evil.example"), 403, "the header host: localhost expected"),
        (
            server.ask("Hi", json!({"model": "gpt-4o"})),
            404,
            "there is no model \"gpt-4o\"; there are model, tuned",
        ),
    ] {
        assert_eq!(response.status, status, "{response:?}");
        assert_eq!(response.message().split(", because").next(), Some(expected));
    }
    for body in ["", "{", "[1]", "\u{0}", &"[".repeat(10_000)] {
        let response = server.send(post("/v1/chat/completions", body).as_bytes());
        assert_eq!(response.status, 400, "{response:?}");
        assert!(response.message().starts_with("the body is not "), "{response:?}");
    }
}

#[test]
fn a_key_is_asked_for() {
    let server = Server::start_as(&["model"], &[("QLORA_API_KEY", "sesame")]);
    let ask = |header: &str| {
        let request = post("/v1/chat/completions", &question("Hi", json!({})).to_string());
        server.send(request.replace("host: localhost", &format!("host: gpu.example{header}")).as_bytes())
    };
    assert_eq!(ask("\r\nauthorization: Bearer sesame").status, 200);
    for wrong in ["", "\r\nauthorization: Bearer Sesame", "\r\nauthorization: Basic sesame"] {
        let response = ask(wrong);
        assert_eq!((response.status, &response.json()["error"]["code"]), (401, &json!("invalid_api_key")));
    }
    assert_eq!(server.get("/metrics").status, 401);
    assert_eq!(server.get("/v1/models").status, 401);
    assert_eq!(server.get("/health").json(), json!({"status": "ok"}));
}

#[test]
fn a_conversation_without_a_system_message_gets_that_of_the_command_line() {
    let server = Server::start(&["--system", "S"]);
    let tokens = |messages: Value| {
        let answer = server.post("/v1/chat/completions", &json!({"messages": messages, "max_tokens": 1}));
        answer.json()["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let user = json!({"role": "user", "content": "Hi"});
    // <|im_start|>system\nS<|im_end|>\n is 11 tokens.
    assert_eq!(tokens(json!([user])), 21 + 11);
    assert_eq!(tokens(json!([{"role": "system", "content": "ST"}, user])), 21 + 12);
}
