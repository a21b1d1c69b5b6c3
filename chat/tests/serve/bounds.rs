//! Clients that do harm, by intent or not: the server answers the others.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::client::{Server, post, question, read, wait_until};

/// A connection that takes in little of what it does not read.
fn narrow(server: &Server) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    socket.connect(&server.address().into()).unwrap();
    socket.into()
}

/// Asks for a long answer with much to say of every token.
fn ask_for_long_answer(server: &Server) -> TcpStream {
    let more = json!({"stream": true, "stream_options": {"include_usage": true}, "max_tokens": 1000,
        "logprobs": true, "top_logprobs": 20});
    let mut stream = narrow(server);
    stream.write_all(post("/v1/chat/completions", &question("Hello", more).to_string()).as_bytes()).unwrap();
    stream
}

/// Reads the beginning of a stream.
fn read_beginning(stream: TcpStream) -> BufReader<TcpStream> {
    let mut reader = BufReader::with_capacity(512, stream);
    let mut line = String::new();
    while !line.starts_with("data: ") {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0, "a stream");
    }
    reader
}

/// An answer waits for its client, while others do not.
#[test]
fn a_client_that_reads_late_misses_nothing() {
    let server = Server::start_endless(&[]);
    let late = ask_for_long_answer(&server);
    wait_until("the answer is begun", || server.metric("qlora_answer_tokens_total") > 0);
    wait_until("it is written no further while another is", || {
        let before = server.metric("qlora_answer_tokens_total");
        assert_eq!(server.ask("Hi", json!({})).json()["usage"]["completion_tokens"], 12);
        server.metric("qlora_answer_tokens_total") == before + 12
    });
    wait_until("it has not ended", || server.metric("qlora_answers_running") == 1);
    let events = read(late).events();
    let (usage, events) = events.split_last().unwrap();
    let tokens = events.iter().filter(|event| event["choices"][0]["logprobs"].is_object()).count();
    assert_eq!(usage["usage"]["completion_tokens"], tokens);
    assert_eq!(tokens, 1000);
}

/// The answer of a client that does not read waits for it, so that its place is taken until it hangs up.
#[test]
fn a_full_server_refuses_until_a_client_hangs_up() {
    let server = Server::start_endless(&["--max-sessions", "1", "--max-waiting", "0"]);
    let client = read_beginning(ask_for_long_answer(&server));
    let refused = server.ask("Hi", json!({}));
    assert_eq!(refused.status, 429, "{refused:?}");
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    assert_eq!(server.metric("qlora_requests_refused_total"), 1);
    assert_eq!(server.get("/health").status, 200);
    drop(client);
    wait_until("there is room again", || server.ask("Hi", json!({})).status == 200);
    assert_eq!(server.metric("qlora_answers_abandoned_total"), 1);
    assert_eq!(server.metric("qlora_answers_completed_total"), 1);
}

/// A client that waits for a whole answer, and for its turn, can hang up too.
#[test]
fn those_who_wait_can_hang_up() {
    let server = Server::start_endless(&["--max-sessions", "1", "--max-waiting", "1"]);
    let first = read_beginning(ask_for_long_answer(&server));
    let mut waiting = server.connect();
    waiting
        .write_all(post("/v1/chat/completions", &question("Hi", json!({})).to_string()).as_bytes())
        .unwrap();
    wait_until("one waits", || server.metric("qlora_answers_waiting") == 1);
    assert_eq!(server.ask("Hi", json!({})).status, 429);
    drop(waiting);
    wait_until("it has hung up", || server.metric("qlora_answers_abandoned_total") == 1);
    // Its room is free again, and the next one waits in its place.
    std::thread::scope(|scope| {
        let next = scope.spawn(|| server.ask("Hi", json!({})));
        wait_until("the next one waits", || server.metric("qlora_answers_waiting") == 1);
        drop(first);
        assert_eq!(next.join().unwrap().status, 200);
    });
}

#[test]
fn half_requests_and_long_ones_do_no_harm() {
    let server = Server::start(&[]);
    let whole = post("/v1/chat/completions", &question("Hi", json!({})).to_string());
    for length in [1, 20, whole.len() / 2, whole.len() - 1] {
        let mut stream = server.connect();
        stream.write_all(&whole.as_bytes()[..length]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    for nonsense in [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], b"hello\r\n\r\n"] {
        let response = server.send(nonsense);
        assert_eq!(response.status, 400, "{response:?}");
    }
    let head = format!("GET /health HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "x".repeat(100_000));
    let mut stream = server.connect();
    // The server may refuse before it has all.
    let _ = stream.write_all(head.as_bytes());
    drop(stream);

    let long =
        format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"{}\"}}]}}", "a".repeat(10 << 20));
    let response = server.send(post("/v1/chat/completions", &long).as_bytes());
    assert_eq!((response.status, response.message().as_str()), (413, "the request has more than 2 MiB"));
    // Without a length that is known before.
    let chunk = "a".repeat(1 << 20);
    let mut stream = server.connect();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    for _ in 0..3 {
        stream.write_all(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes()).unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(read(stream).status, 413);
    assert_eq!(server.ask("Hi", json!({})).status, 200);
}
