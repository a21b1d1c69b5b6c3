//! How the server starts and ends.

use std::io::Write;

use serde_json::{Value, json};

use crate::client::{Server, chat, models, post, question, read, wait_until};

fn refused(arguments: &[&str], code: i32) -> String {
    let directory = models();
    let output = chat(directory.path(), arguments).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

#[test]
fn an_adapter_is_served_with_its_base() {
    let server = Server::start_as(&["adapter"], &[]);
    let models = server.get("/v1/models").json();
    let names: Vec<&Value> = models["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(names, ["adapter", "model"]);
    let first = server.ask("Hello", json!({})).text();
    assert_eq!(first, server.ask("Hello", json!({"model": "adapter"})).text());
    assert_ne!(first, server.ask("Hello", json!({"model": "model"})).text());
}

#[test]
fn options_of_the_command_line_hold_where_requests_say_nothing() {
    let server = Server::start(&["--max-new-tokens", "3", "--temperature", "2", "--seed", "1"]);
    let ask = |more: Value| server.post("/v1/chat/completions", &question("Hello", more));
    let first = ask(json!({"max_tokens": null}));
    assert_eq!(first.json()["usage"]["completion_tokens"], 3);
    assert_ne!(ask(json!({"seed": 1})).text(), ask(json!({"seed": 2})).text(), "tokens are drawn");
    assert_eq!(
        ask(json!({"seed": 1, "temperature": 0})).text(),
        ask(json!({"seed": 2, "temperature": 0})).text()
    );
}

#[test]
fn what_cannot_be_served_is_said_at_once() {
    let open = refused(&["model", "--serve", "0.0.0.0:0"], 2);
    assert!(
        open.contains("other machines can reach 0.0.0.0, so an API key is needed\nhint: set QLORA_API_KEY"),
        "{open}"
    );
    let address = refused(&["model", "--serve", "8000"], 2);
    assert!(address.contains("--serve 8000: a host and a port expected"), "{address}");
    let adapter = refused(&["model", "--serve", "127.0.0.1:0", "--adapter", "a=model"], 2);
    assert!(adapter.contains("--adapter a: model is not an adapter"), "{adapter}");
    let twice = refused(&["adapter", "--serve", "127.0.0.1:0", "--adapter", "model=adapter"], 2);
    assert!(twice.contains("two models have the name model"), "{twice}");
    assert!(refused(&["model", "--adapter", "a=adapter"], 2).contains("--serve"));
    assert!(refused(&["model", "--serve", "127.0.0.1:0", "--json"], 2).contains("cannot be used with"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let said = refused(&["model", "--serve", &taken], 1);
    assert!(
        said.contains(&format!("cannot listen at {taken}")) && said.contains("hint: choose another port"),
        "{said}"
    );
}

/// A signal ends the server; clients learn of it, and what they said is on no record.
#[test]
fn a_signal_ends_it_and_nothing_of_a_prompt_is_said() {
    let server = Server::start_endless(&["-v", "--max-sessions", "1"]);
    // So much that it does not end before the signal comes.
    let more = json!({"stream": true, "max_tokens": 4000, "n": 64});
    let mut stream = server.connect();
    let body = question("my secret question", more).to_string();
    stream.write_all(post("/v1/chat/completions", &body).as_bytes()).unwrap();
    let reader = std::thread::spawn(|| read(stream));
    wait_until("an answer is being written", || server.metric("qlora_answers_running") == 1);
    let (status, said) = server.end("-TERM");
    assert_eq!(status.code(), Some(130), "{said}");
    assert!(said.contains("POST /v1/chat/completions: 200"), "{said}");
    assert!(!said.contains("secret"), "{said}");
    let response = reader.join().unwrap();
    assert!(response.body.contains("the server is stopping"), "{}", response.head);
}
