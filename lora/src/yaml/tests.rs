use super::*;

/// Every key of LLaMA-Factory's own examples and of transformers' arguments is met by an option or
/// listed with what becomes of it, and none by both.
#[test]
fn no_key_is_listed_twice_or_beside_an_option() {
    let command = Arguments::command();
    let mut seen = std::collections::BTreeSet::new();
    for key in keys::known() {
        assert!(seen.insert(key), "{key} is listed twice");
        let option = key.replace('_', "-");
        assert!(command.get_arguments().all(|argument| argument.get_long() != Some(&option)), "{key}");
    }
    for (alias, key) in keys::ALIASES {
        assert!(!seen.contains(alias), "{alias}");
        let option = key.replace('_', "-");
        let is_option = command.get_arguments().any(|argument| argument.get_long() == Some(&option));
        assert!(is_option || seen.contains(key), "{key}");
    }
}

#[test]
fn every_key_of_llama_factory_and_transformers_is_known() {
    let command = Arguments::command();
    let options: Vec<&str> = command.get_arguments().filter_map(|argument| argument.get_long()).collect();
    for key in include_str!("../../../tests/golden/llama_factory_keys.txt").split_whitespace() {
        let is_ours = key == "output_dir"
            || key == "model_name_or_path"
            || options.contains(&key.replace('_', "-").as_str())
            || keys::ALIASES.iter().any(|(alias, _)| *alias == key);
        assert!(is_ours || keys::is_known(key), "{key} is unknown");
    }
}

fn lines(options: &str, file: &str) -> Result<(Arguments, Options)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train.yml");
    fs_err::write(&path, file).unwrap();
    let line = ["lora-train".into(), path.into_os_string()].into_iter();
    complete(line.chain(options.split_whitespace().map(OsString::from)).collect())
}

#[test]
fn lists_numbers_booleans_and_null() {
    let file = "dataset: [a, b]\ndata: [x.json, y.json]\nlora_target: q_proj, v_proj\nmask_history: true\n\
        lr_scheduler_kwargs: {num_cycles: 2}\nlearning_rate: 1e-4\ntemplate: null\neval_strategy: no\n";
    let (arguments, _) = lines("", file).unwrap();
    assert_eq!(arguments.data.dataset, ["a", "b"]);
    assert_eq!(arguments.data.data.len(), 2);
    assert!(arguments.data.mask_history && arguments.data.template.is_none());
    assert_eq!(arguments.optimization.learning_rate, 1e-4);
    assert_eq!(arguments.optimization.lr_scheduler_kwargs.as_deref(), Some("{\"num_cycles\":2}"));
    let (arguments, _) = lines("--dataset c --mask-history=false --learning-rate 2", file).unwrap();
    assert_eq!(arguments.data.dataset, ["c"]);
    assert!(!arguments.data.mask_history);
    assert_eq!(arguments.optimization.learning_rate, 2.0);
}

#[test]
fn what_is_written_is_read_as_the_same() {
    let file = "model_name_or_path: some model\ndata: ['a b.json', c.json]\nlora_target: q_proj,v_proj\n\
        template: \"true\"\nadam_epsilon: 1e-7\nmax_steps: -1\nreport_to: tensorboard\n";
    let (_, settings) = lines("--dry-run --data-seed 7", file).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("training_args.yaml");
    fs_err::write(&path, settings.text(Path::new("m"), Path::new("o")).unwrap()).unwrap();
    let (arguments, again) = complete(vec!["lora-train".into(), path.clone().into()]).unwrap();
    assert_eq!(settings, again, "{}", fs_err::read_to_string(&path).unwrap());
    assert_eq!(arguments.model, [Path::new("m")]);
    assert_eq!(arguments.common.output.as_deref(), Some(Path::new("o")));
    assert!(!arguments.dry_run);
}

#[test]
fn booleans_may_be_spelt_in_several_ways() {
    let file = "use_rslora: yes\ndouble_quantization: off\nplot_loss: 'No'\nuse_dora: off\nuse_galore: False\n\
        mask_history: on\ngreater_is_better: True\n";
    let (arguments, _) = lines("", file).unwrap();
    assert!(arguments.adapter.use_rslora && arguments.data.mask_history);
    assert!(arguments.reporting.greater_is_better);
    assert!(!arguments.adapter.double_quantization && !arguments.reporting.plot_loss);
    assert!(lines("", "use_dora: yes\n").is_err());
}

#[test]
fn settings_of_llama_factorys_command_line_are_understood_enough_to_mend_them() {
    let error = lines("learning_rate=2e-5", "seed: 1\n").unwrap_err();
    assert_eq!(error.hint_text(), Some("--learning-rate 2e-5"), "{error}");
}

#[test]
fn a_key_twice_is_a_mistake() {
    assert!(lines("", "seed: 1\nseed: 2\n").unwrap_err().to_string().contains("seed"));
}

#[test]
fn two_files_are_one_too_many() {
    let error = lines("other.yaml", "seed: 1\n").unwrap_err();
    assert!(error.to_string().contains("other.yaml"), "{error}");
}

#[test]
fn a_slip_is_recognised_and_another_word_is_not() {
    let known = ["learning_rate", "lora_rank", "seed"].map(String::from);
    assert_eq!(keys::nearest("learning_rat", &known), Some("learning_rate"));
    assert_eq!(keys::nearest("loar_rank", &known), Some("lora_rank"));
    assert_eq!(keys::nearest("per_device", &known), None);
}

#[test]
fn a_file_of_settings_is_yaml_or_json() {
    let is_settings = |name: &str| is_settings(Path::new(name));
    assert!(["a.yaml", "a.yml", "a.json"].into_iter().all(is_settings));
    assert!(!["a.jsonl", "yaml", "a.YAML", "model"].into_iter().any(is_settings));
}
