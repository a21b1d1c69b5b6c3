//! What is written again, replaced, and never touched.

use std::fs;

use crate::place::*;

#[test]
fn the_same_work_is_done_once_and_a_run_that_was_killed_goes_on() {
    let parent = workplace();
    let arguments = ["adapter", "-o", "m", "--shard-size", "3KB"];
    run(&parent, &arguments).success();
    let whole = parent.bytes("m/model-00002-of-00003.safetensors");
    assert!(stderr_of(&run(&parent, &arguments).success()).contains("already made"));
    run(&parent, &["adapter", "-o", "m"]).code(1);

    // As a run leaves it that is killed in its second file.
    let (scratch, partial) = (parent.path(".m.qlora-tools"), parent.path(".m.qlora-tools/new"));
    fs::create_dir(&scratch).unwrap();
    fs::write(scratch.join("lock"), "qlora-tools merge\n").unwrap();
    fs::rename(parent.path("m"), &partial).unwrap();
    let text = fs::read_to_string(partial.join("made-by.json")).unwrap();
    let mut made_by: serde_json::Value = serde_json::from_str(&text).unwrap();
    made_by["parts"].as_object_mut().unwrap().remove("model-00002-of-00003.safetensors");
    fs::write(partial.join("made-by.json"), made_by.to_string()).unwrap();
    fs::remove_file(partial.join("model-00002-of-00003.safetensors")).unwrap();
    fs::write(partial.join(".qlora-tools-Ab12Cd34Ef56"), "half").unwrap();
    let stderr = stderr_of(&run(&parent, &arguments).success());
    assert!(stderr.contains("model-00001-of-00003.safetensors is already merged"), "{stderr}");
    assert_eq!(parent.bytes("m/model-00002-of-00003.safetensors"), whole);
    assert!(parent.names("m").iter().all(|name| !name.contains("qlora-tools")));
    assert!(!scratch.exists());
}

#[test]
fn an_output_has_nothing_to_do_with_an_input() {
    let parent = workplace();
    std::os::unix::fs::symlink("adapter", parent.path("link")).unwrap();
    parent.make("sub");
    let yaml = "model_name_or_path: nf4\nadapter_name_or_path: adapter\nexport_dir: nf4/merged\n";
    parent.write("sub/export.yaml", yaml);
    let before = ["nf4", "adapter", "sub"].map(|name| parent.names(name));
    for force in [&[][..], &["--force"]] {
        for (output, relation) in [
            ("adapter", "is the input adapter"),
            ("link", "is the input adapter"),
            ("sub/../adapter", "is the input adapter"),
            ("link/new", "lies in the input adapter"),
            ("nf4/merged", "lies in the input"),
            ("/", "holds the input"),
        ] {
            let arguments = [&["adapter", "-o", output], force].concat();
            let error = stderr_of(&run(&parent, &arguments).code(2));
            assert!(error.contains(relation) && error.contains("\nhint: "), "{error}");
        }
        let error = stderr_of(&run(&parent, &[&["sub/export.yaml"], force].concat()).code(2));
        assert!(error.contains("lies in the input"), "{error}");
        let error = stderr_of(&run(&parent, &[&["sub/export.yaml", "-o", "sub"], force].concat()).code(2));
        assert!(error.contains("holds the input sub/export.yaml"), "{error}");
    }
    assert_eq!(before, ["nf4", "adapter", "sub"].map(|name| parent.names(name)));
}

#[test]
fn what_somebody_else_made_is_not_replaced() {
    let parent = workplace();
    for (name, file) in [("home", "thesis.tex"), ("m.partial", "x"), (".p.qlora-tools", "notes.md")] {
        fs::create_dir(parent.path(name)).unwrap();
        fs::write(parent.path(name).join(file), "mine").unwrap();
    }
    for name in ["m.lock", "m.partial.lock"] {
        fs::write(parent.path(name), "mine").unwrap();
    }
    let refused = |output: &str, named: &str| {
        for force in [&[][..], &["--force"]] {
            let error = stderr_of(&run(&parent, &[&["adapter", "-o", output], force].concat()).code(1));
            assert!(error.contains(named) && error.contains("\nhint: "), "{error}");
        }
    };
    refused("home", "home holds thesis.tex, which merge did not make");
    refused("p", ".p.qlora-tools is in the way");
    run(&parent, &["adapter", "-o", "m"]).success();
    parent.write("m/notes.md", "mine");
    let forced = ["adapter", "-o", "m", "--shard-size", "3KB", "--force"];
    assert!(stderr_of(&run(&parent, &forced).code(1)).contains("m holds notes.md"));
    fs::remove_file(parent.path("m/notes.md")).unwrap();
    run(&parent, &forced).success();
    for name in ["home/thesis.tex", "m.partial/x", "m.lock", "m.partial.lock", ".p.qlora-tools/notes.md"] {
        assert_eq!(fs::read_to_string(parent.path(name)).unwrap(), "mine");
    }
}

#[test]
fn a_change_in_any_file_of_the_base_is_noticed() {
    let parent = workplace();
    run(&parent, &["adapter", "-o", "m"]).success();
    for (file, text) in [
        ("tokenizer_config.json", r#"{"a": 1}"#),
        ("chat_template.jinja", "new"),
        ("generation_config.json", "{}"),
    ] {
        fs::write(parent.path("nf4").join(file), text).unwrap();
        let stale = stderr_of(&run(&parent, &["adapter", "-o", "m"]).code(1));
        assert!(stale.contains("made from something else") && stale.contains("--force"), "{file}: {stale}");
        run(&parent, &["adapter", "-o", "m", "--force"]).success();
        assert_eq!(fs::read_to_string(parent.path("m").join(file)).unwrap(), text);
        assert!(stderr_of(&run(&parent, &["adapter", "-o", "m"]).success()).contains("already made"));
    }
}
