//! Heads that are the table, that are stored beside it, and that were trained.

use std::process::{Command, Stdio};
use std::time::Duration;

use common::checkpoint::{Checkpoint, Dtype, Tensor, write_file};

use crate::place::*;

#[test]
fn a_trained_head_no_longer_shares_the_table() {
    let parent = workplace();
    adapter(&parent.path("adapter"), "../base", r#""r": 4, "lora_alpha": 8"#, &[("lm_head", 4)], &[]);
    run(&parent, &["adapter", "-o", "m", "--verify"]).success();
    let result = parent.path("m");
    assert_folded(&result, HEAD, &folded(&original(EMBEDDING), &[("lm_head", 4, 2.0)]));
    assert_eq!(
        Checkpoint::open(&result).unwrap().tensor(EMBEDDING).unwrap().to_f32().unwrap(),
        original(EMBEDDING)
    );
    assert_eq!(config_of(result)["tie_word_embeddings"], false);
}

/// `lm_head` is in the file beside the table that config.json ties it to: what transformers 5 then loads is
/// the stored head where it differs, and the table where it does not.
#[test]
fn a_stored_head_stays_what_it_is() {
    let parent = workplace();
    let base = parent.path("base");
    let store = |head: Tensor| {
        let tensors: Vec<Tensor> = weights().into_iter().chain([head]).collect();
        write_file(&base.join("model.safetensors"), &tensors).unwrap();
    };
    let values = |result: &str, name: &str| {
        Checkpoint::open(&parent.path(result)).unwrap().tensor(name).unwrap().to_f32().unwrap()
    };
    let tied = |result: &str| config_of(parent.path(result))["tie_word_embeddings"].clone();
    let train = |name: &str, modules: &[(&str, usize)], more: &[Tensor]| {
        let keys = r#""r": 4, "lora_alpha": 8"#;
        adapter(&parent.path(name), "../base", keys, modules, more);
    };
    train("block", &[(Q, 4)], &[]);
    train("head", &[("lm_head", 4)], &[]);
    let table = Tensor::from_f32(format!("base_model.model.{EMBEDDING}"), vec![40, 24], &numbers(40 * 24, 9));
    train("table", &[(Q, 4)], &[table]);

    let other = bf16(HEAD, &[40, 24], 8);
    let head = other.to_f32().unwrap();
    store(other);
    for (trained, expected) in
        [("block", head.clone()), ("head", folded(&head, &[("lm_head", 4, 2.0)])), ("table", head.clone())]
    {
        let result = format!("other-{trained}");
        run(&parent, &[trained, "-o", &result, "--verify"]).success();
        assert_folded(&parent.path(&result), HEAD, &expected);
        assert_eq!(tied(&result), false, "{trained}");
    }
    assert_eq!(values("other-head", EMBEDDING), original(EMBEDDING));

    store(Tensor { name: HEAD.into(), ..weights().remove(0) });
    run(&parent, &["block", "-o", "same-block", "--verify"]).success();
    assert_eq!(tied("same-block"), true, "nothing has changed");
    run(&parent, &["head", "-o", "same-head", "--verify"]).success();
    assert_folded(&parent.path("same-head"), HEAD, &folded(&original(EMBEDDING), &[("lm_head", 4, 2.0)]));
    run(&parent, &["table", "-o", "same-table", "--verify"]).success();
    assert_eq!(values("same-table", HEAD), original(EMBEDDING), "the head was not trained");
    assert_folded(&parent.path("same-table"), EMBEDDING, &folded(&numbers(40 * 24, 9), &[]));
    assert_eq!((tied("same-head"), tied("same-table")), (false.into(), false.into()));

    // Only the head is stored, which then is the table too.
    let mut tensors = weights();
    tensors[0].name = HEAD.into();
    write_file(&base.join("model.safetensors"), &tensors).unwrap();
    run(&parent, &["head", "-o", "only-head", "--verify"]).success();
    assert_eq!(values("only-head", EMBEDDING), original(EMBEDDING));
    assert_folded(&parent.path("only-head"), HEAD, &folded(&original(EMBEDDING), &[("lm_head", 4, 2.0)]));
    assert_eq!(tied("only-head"), false);
}

/// A head and a table that are equal are compared, and then copied, a few megabytes at a time.
#[test]
fn large_tables_are_never_in_memory_as_a_whole() {
    let parent = workplace();
    const ROWS: usize = 2_000_000;
    let bytes = common::checkpoint::Bytes::from(vec![0; ROWS * 24 * 2]);
    let table = |name: &str| Tensor {
        name: name.into(),
        dtype: Dtype::BF16,
        shape: vec![ROWS, 24],
        bytes: bytes.clone(),
    };
    let tensors: Vec<Tensor> = weights().into_iter().skip(1).chain([table(EMBEDDING), table(HEAD)]).collect();
    write_file(&parent.path("base/model.safetensors"), &tensors).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_merge"))
        .current_dir(parent.path(""))
        .args(["adapter", "--base", "base", "-q", "-o", "m"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // The kernel keeps the most that was resident, so that the last reading counts.
    let mut most = 0;
    let status = loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        most = line.map_or(most, |line| line.trim().trim_end_matches(" kB").parse::<usize>().unwrap());
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(status.success() && most > 0);
    let tables = 2 * bytes.len() / 1024;
    assert!(most < tables / 2, "{most} kB were resident, the tables have {tables} kB");
}
