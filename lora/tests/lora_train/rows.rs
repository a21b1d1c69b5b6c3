//! Files of rows as people have them, and as strangers may make them.

use std::path::{Path, PathBuf};

use crate::place::Place;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/rows").join(name)
}

/// What is said of the examples in a file, and each as it is trained.
fn shown(place: &Place, file: impl AsRef<Path>, arguments: &str) -> String {
    let file = file.as_ref().display();
    place.run(&format!("model --data {file} -o out --dry-run --show-examples 9 {arguments}")).1
}

fn refused(place: &Place, file: impl AsRef<Path>, arguments: &str) -> String {
    let file = file.as_ref().display();
    let (code, said) = place.fail(&format!("model --data {file} -o out --dry-run {arguments}"));
    assert!(code == 1 && said.contains("\nhint: ") && !said.contains("panicked"), "{said}");
    said
}

/// The three examples that most files here hold.
fn assert_three(place: &Place, file: impl AsRef<Path>) {
    let name = file.as_ref().display().to_string();
    let said = shown(place, file, "--strict");
    assert!(said.contains("Num examples = 3\n"), "{name}: {said}");
    for i in 0..3 {
        let expected = format!("user\nq{i}<|im_end|>\n<|im_start|>assistant\n«a{i}<|im_end|>\n»");
        assert!(said.contains(&expected), "{name}: {said}");
    }
}

#[test]
fn parquet_however_it_is_packed_and_encoded() {
    let place = Place::new();
    for name in ["codec_none", "codec_gzip", "codec_brotli", "codec_lz4", "delta", "unused"] {
        assert_three(&place, golden(&format!("{name}.parquet")));
    }
}

/// Writes a template that shows tools and the arguments of calls.
fn show_tools(place: &Place) {
    let template = "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n\
        {{ m.content }}{% for c in m.tool_calls or [] %}{% set a = c.function.arguments %}call {{ a | tojson }} {{ a.id }} \
        {{ a.id is string }}{% endfor %}<|im_end|>\n{% endfor %}\
        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let mut config = place.json("model/tokenizer_config.json");
    config["chat_template"] = template.into();
    place.write("model/tokenizer_config.json", config.to_string());
    let _ = std::fs::remove_file(place.path("model/chat_template.jinja"));
}

#[test]
fn keys_that_arrow_added_are_not_trained() {
    let place = Place::new();
    show_tools(&place);
    let said = shown(&place, golden("padded.parquet"), "--strict");
    for expected in [
        "call {\"city\": \"Saltmere\"}",
        "call {\"depth\": \"2.5\"}",
        "{\"properties\": {\"depth\": {\"type\": \"string\"}}}",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert!(!said.contains("null"), "{said}");
}

/// As transformers' `apply_chat_template` prints them.
#[test]
fn numbers_keep_their_digits() {
    let place = Place::new();
    show_tools(&place);
    let arguments = "{\"id\": 123456789012345678901234567890, \"u\": 18446744073709551615, \"n\": -9223372036854775809, \
        \"e\": 1e+22, \"z\": -0.0, \"l\": 40.71277589797974, \"x\": NaN, \"y\": 1e400}";
    let shown_arguments = arguments.replace("1e400", "Infinity");
    for (call, name) in [
        (
            format!(
                "\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{{\"function\": {{\"name\": \"f\", \"arguments\": {arguments}}}}}]"
            ),
            "object.jsonl",
        ),
        (
            format!(
                "\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{{\"function\": {{\"name\": \"f\", \"arguments\": {:?}}}}}]",
                arguments
            ),
            "text.jsonl",
        ),
    ] {
        let row = format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"q\"}}, {{{call}}}], \"tools\": [{{\"name\": \"f\", \"maximum\": 123456789012345678901}}]}}\n"
        );
        place.write(name, row);
        let said = shown(&place, name, "--strict");
        let expected = format!("call {shown_arguments} 123456789012345678901234567890 False");
        assert!(said.contains(&expected), "{said}");
        assert!(said.contains("\"maximum\": 123456789012345678901}"), "{said}");
    }
}

#[test]
fn json_as_people_write_it() {
    let place = Place::new();
    let row = |i: usize| {
        format!("{{\"instruction\": \"q{i}\", \"output\": \"a{i}\", \"score\": [NaN, -Infinity]}}")
    };
    let rows = [0, 1, 2].map(row);
    let pretty =
        |row: &String| row.replacen("{", "{\n  ", 1).replace(", \"", ",\n  \"").replacen("]}", "]\n}", 1);
    place.write("list.json", format!("[{}]", rows.join(",\n")));
    place.write("pretty.json", rows.each_ref().map(pretty).join("\n"));
    place.write("marked.jsonl", format!("\u{FEFF}{}\r\n", rows.join("\r\n")));
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    place.write("utf16.json", [&[0xFF, 0xFE][..], &utf16(&format!("[{}]", rows.join(",")))].concat());
    for name in ["list.json", "pretty.json", "marked.jsonl", "utf16.json"] {
        assert_three(&place, name);
    }
    assert_three(&place, golden("rows.jsonl.gz"));
    assert_three(&place, golden("rows.jsonl.zst"));
    place.write("cut.jsonl", format!("{}\n{{\"instruction\": \n{}\n{{\n{}\n", rows[0], rows[1], rows[2]));
    let said = shown(&place, "cut.jsonl", "");
    assert!(said.contains("Num examples = 3\n") && said.contains("2 rows are malformed"), "{said}");
    let gbk = [&b"{\"instruction\": \""[..], &[0xC4, 0xE3, 0xBA, 0xC3], b"\", \"output\": \"a\"}"].concat();
    for (name, bytes) in [("gbk.jsonl", gbk.clone()), ("gbk.json", [&b"["[..], &gbk, b"]"].concat())] {
        place.write(name, bytes);
        let said = refused(&place, name, "");
        assert!(
            said.contains(&format!("not UTF-8; it may be GBK or GB18030 (iconv -f GB18030 -t UTF-8 {name}")),
            "{said}"
        );
    }
}

/// As pandas' `read_csv`, and so `datasets`, reads them.
#[test]
fn cells_without_a_value_are_no_answers() {
    let place = Place::new();
    let empty = ["", "NA", "None", "nan", "null", "N/A", "\"\"", "\"NULL\"", "<NA>"];
    let rows: String = empty.iter().map(|cell| format!("q,{cell},{cell}\n")).collect();
    place.write("rows.csv", format!("instruction,input,output\nq0,NA,a0\n{rows}q1,ctx,none\n"));
    let said = shown(&place, "rows.csv", "");
    assert!(
        said.contains("Num examples = 2\n") && said.contains("9 rows are malformed and skipped"),
        "{said}"
    );
    assert!(said.contains("rows.csv, row 2: no answer: output is missing"), "{said}");
    assert!(said.contains("user\nq0<|im_end|>") && said.contains("«none<|im_end|>"), "{said}");
}

#[test]
fn a_row_has_a_most() {
    let place = Place::new();
    let long = "x".repeat(1 << 20);
    place.write("rows.jsonl", format!("{{\"instruction\": \"q\", \"output\": \"{long}\"}}\n"));
    place.write("rows.json", format!("[{{\"instruction\": \"q\", \"output\": \"{long}\"}}]"));
    place.write("rows.csv", format!("instruction,output\nq,\"{}", "a,b\n".repeat(1 << 18)));
    for (name, row) in [("rows.jsonl", "line 1"), ("rows.json", "row 1"), ("rows.csv", "row 1")] {
        let said = refused(&place, name, "--max-row-size 1MiB");
        assert!(
            said.contains(&format!("{name}, {row}: more than 1 MiB, which is the most that a row may have")),
            "{said}"
        );
        assert!(said.contains("--max-row-size 4MiB"), "{said}");
    }
    place.run("model --data rows.jsonl -o out --dry-run --max-row-size 2MiB");
}

#[test]
fn few_bytes_cannot_fill_memory_or_time() {
    let place = Place::new();
    for (name, expected) in [
        (
            "bomb_page",
            "row 1: more than 16 MiB, which is the most that a row may have; the pages around it take 16",
        ),
        ("bomb_elements", "row 1: Parquet error: a row of more than 1048576 elements"),
        ("bomb_row", "row 1: more than 16 MiB, which is the most that a row may have"),
        ("bomb_rows", "its rows are more than 1000 times as large as the file"),
    ] {
        let said = refused(&place, golden(&format!("{name}.parquet")), "");
        assert!(said.contains(expected), "{name}: {said}");
    }
    place.write("empty.jsonl", "{}\n".repeat(150_000));
    let said = refused(&place, "empty.jsonl", "");
    assert!(said.contains("no usable row among the first 100000; empty.jsonl, line 1: "), "{said}");
    place.write("deep.json", format!("[{}1{}]", "{\"a\":[".repeat(50_000), "]}".repeat(50_000)));
    assert!(refused(&place, "deep.json", "").contains("recursion limit"));
}

#[test]
fn damaged_parquet_is_an_error() {
    let place = Place::new();
    let whole = fs_err::read(golden("padded.parquet")).unwrap();
    for (at, byte) in (0..whole.len()).step_by(97).flat_map(|at| [(at, 0xFF), (at, 0x80)]) {
        let mut damaged = whole.clone();
        damaged[at] = byte;
        place.write("damaged.parquet", &damaged);
        let run = place.command("model --data damaged.parquet -o out --dry-run").output().unwrap();
        let said = String::from_utf8(run.stderr).unwrap();
        let is_error = run.status.code() == Some(1) && said.contains("\nhint: ");
        assert!((run.status.success() || is_error) && !said.contains("panicked"), "byte {at}: {said}");
    }
}

#[test]
fn pipes_and_devices_are_refused_at_once() {
    let place = Place::new();
    assert!(std::process::Command::new("mkfifo").arg(place.path("fifo")).status().unwrap().success());
    for name in ["fifo", "/dev/zero"] {
        let said = refused(&place, name, "");
        assert!(
            said.contains(&format!("{name} is a pipe or a device")) && said.contains("> rows.jsonl"),
            "{said}"
        );
    }
}

#[test]
fn conversations_are_read_no_further_than_they_are_trained() {
    let place = Place::new();
    let message = |i: usize| {
        let role = ["user", "assistant"][i % 2];
        format!("{{\"role\": \"{role}\", \"content\": \"m{i}\"}}")
    };
    let conversation = |count: usize| {
        let messages: Vec<String> = (0..count).map(message).collect();
        format!("{{\"messages\": [{}]}}\n", messages.join(", "))
    };
    place.write("long.jsonl", conversation(30_000));
    place.write("short.jsonl", conversation(60));
    let [long, short] = ["long.jsonl", "short.jsonl"].map(|name| shown(&place, name, "--cutoff-len 128"));
    let example = |said: &str| said[said.find("example 1").unwrap()..said.find("*****").unwrap()].to_owned();
    assert_eq!(example(&long), example(&short));
    assert!(long.contains("answers are shortened to fit 128 tokens"), "{long}");
}
