//! Keys of LLaMA-Factory and transformers that are not options here.
//!
//! Names and meanings are those of LLaMA-Factory's `hparams/*_args.py` and transformers'
//! `training_args.py`. A key is of one of two kinds: it has no effect here, whatever its value; or some of
//! its values ask for what is done anyway, and the others are refused.

use common::{Error, Result};

/// Other names of options.
pub(super) const ALIASES: [(&str, &str); 3] = [
    ("evaluation_strategy", "eval_strategy"),
    ("neftune_alpha", "neftune_noise_alpha"),
    ("warmup_proportion", "warmup_ratio"),
];

/// Keys without effect, and the reason.
struct WithoutEffect {
    why: &'static str,
    keys: &'static [&'static str],
}

/// Keys of which only some values are accepted.
struct Limited {
    /// The values that ask for what is done anyway.
    harmless: &'static [&'static str],
    /// What to do in place of the other values.
    hint: &'static str,
    keys: &'static [&'static str],
}

const WITHOUT_EFFECT: &[WithoutEffect] = &[
    WithoutEffect {
        why: "all cores are used",
        keys: &["preprocessing_num_workers", "preprocessing_batch_size", "dataloader_num_workers"],
    },
    WithoutEffect {
        why: "examples are tokenized before the run and need no loader",
        keys: &[
            "dataloader_pin_memory",
            "dataloader_persistent_workers",
            "dataloader_prefetch_factor",
            "dataloader_multiprocessing_context",
            "dataloader_in_order",
            "remove_unused_columns",
            "label_names",
            "use_fast_tokenizer",
            "length_column_name",
            "media_dir",
        ],
    },
    WithoutEffect {
        why: "ranks wait for each other for as long as all are there; one that is lost ends the run",
        keys: &["ddp_timeout"],
    },
    WithoutEffect {
        why: "the gradients of all GPUs are summed at once, over NCCL; every trained tensor has one",
        keys: &[
            "ddp_find_unused_parameters",
            "ddp_bucket_cap_mb",
            "ddp_broadcast_buffers",
            "ddp_static_graph",
            "ddp_backend",
        ],
    },
    WithoutEffect {
        why: "every supervised token of a step counts alike, on whichever GPU it is",
        keys: &["average_tokens_across_devices"],
    },
    WithoutEffect {
        why: "launchers say it in environment variables, such as RANK and MASTER_ADDR",
        keys: &["local_rank", "master_addr", "master_port"],
    },
    WithoutEffect {
        why: "rank 0 alone writes and logs",
        keys: &["save_on_each_node", "log_on_each_node", "log_level_replica"],
    },
    WithoutEffect {
        why: "rank 0 sends its tokens to ranks that cannot read them",
        keys: &["data_shared_file_system"],
    },
    WithoutEffect {
        why: "one process trains on each GPU, started by torchrun, mpirun, srun or lora-train itself",
        keys: &[
            "accelerator_config",
            "ray_run_name",
            "ray_storage_path",
            "ray_storage_filesystem",
            "ray_num_workers",
            "ray_init_kwargs",
            "resources_per_worker",
            "placement_strategy",
        ],
    },
    WithoutEffect {
        why: "the device decides, and adapters are always f32",
        keys: &[
            "bf16",
            "tf32",
            "pure_bf16",
            "fp16_full_eval",
            "bf16_full_eval",
            "half_precision_backend",
            "fp16_opt_level",
            "upcast_layernorm",
            "upcast_lmhead_output",
            "infer_dtype",
        ],
    },
    WithoutEffect {
        why: "passes are cut to the memory there is, and blocks are computed again where it demands that",
        keys: &[
            "per_device_eval_batch_size",
            "eval_accumulation_steps",
            "auto_find_batch_size",
            "gradient_checkpointing",
            "gradient_checkpointing_kwargs",
            "activation_checkpointing",
            "activation_checkpointing_kwargs",
            "disable_gradient_checkpointing",
            "use_reentrant_gc",
            "use_unsloth_gc",
            "low_cpu_mem_usage",
            "offload_folder",
            "torch_empty_cache_steps",
            "skip_memory_metrics",
        ],
    },
    WithoutEffect {
        why: "there is one implementation, and it is fused",
        keys: &[
            "flash_attn",
            "use_unsloth",
            "enable_liger_kernel",
            "use_liger_kernel",
            "liger_kernel_config",
            "use_v1_kernels",
            "torch_compile",
            "torch_compile_backend",
            "torch_compile_mode",
            "use_kv_cache",
            "use_cache",
            "infer_backend",
        ],
    },
    WithoutEffect {
        why: "models are read from disk; fetch downloads them",
        keys: &["cache_dir", "trust_remote_code", "hf_hub_token", "ms_hub_token", "om_hub_token"],
    },
    WithoutEffect {
        why: "runs are always reproducible",
        keys: &["full_determinism", "restore_callback_states_from_checkpoint"],
    },
    WithoutEffect {
        why: "checkpoints keep what --resume needs",
        keys: &["save_only_model", "save_safetensors", "enable_jit_checkpoint"],
    },
    WithoutEffect {
        why: "what is shown and counted is always the same; see -q and -v",
        keys: &[
            "log_level",
            "disable_tqdm",
            "logging_nan_inf_filter",
            "include_num_input_tokens_seen",
            "include_tokens_per_second",
            "include_effective_tokens_per_second",
            "print_param_status",
            "debug",
            "run_name",
            "project",
            "trackio_space_id",
            "trackio_bucket_id",
            "trackio_static_space_id",
            "prediction_loss_only",
            "include_for_metrics",
            "include_inputs_for_metrics",
            "batch_eval_metrics",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "do_eval",
            "ignore_pad_token_for_loss",
            "ignore_data_skip",
        ],
    },
    WithoutEffect {
        why: "it belongs to chat",
        keys: &[
            "do_sample",
            "temperature",
            "top_p",
            "top_k",
            "num_beams",
            "max_length",
            "max_new_tokens",
            "repetition_penalty",
            "length_penalty",
            "skip_special_tokens",
            "default_system",
            "generation_max_length",
            "generation_num_beams",
            "generation_config",
            "eval_num_beams",
            "sortish_sampler",
            "vllm_maxlen",
            "vllm_gpu_util",
            "vllm_enforce_eager",
            "vllm_max_lora_rank",
            "vllm_config",
            "sglang_maxlen",
            "sglang_mem_fraction",
            "sglang_tp_size",
            "sglang_config",
            "sglang_lora_backend",
        ],
    },
    WithoutEffect {
        why: "it belongs to merge",
        keys: &[
            "export_dir",
            "export_size",
            "export_device",
            "export_quantization_bit",
            "export_quantization_dataset",
            "export_quantization_nsamples",
            "export_quantization_maxlen",
            "export_legacy_format",
            "export_hub_model_id",
        ],
    },
    WithoutEffect {
        why: "it belongs to a way of training that is not chosen",
        keys: &[
            "freeze_trainable_layers",
            "freeze_trainable_modules",
            "freeze_extra_modules",
            "freeze_vision_tower",
            "freeze_multi_modal_projector",
            "loraplus_lr_embedding",
            "pissa_iter",
            "module_dropout",
            "oft_rank",
            "oft_block_size",
            "oft_target",
            "pref_beta",
            "pref_ftx",
            "pref_bco_weight",
            "pref_loss",
            "dpo_label_smoothing",
            "kto_chosen_weight",
            "kto_rejected_weight",
            "simpo_gamma",
            "ld_alpha",
            "ppo_buffer_size",
            "ppo_epochs",
            "ppo_score_norm",
            "ppo_target",
            "ppo_whiten_rewards",
            "ref_model",
            "ref_model_adapters",
            "ref_model_quantization_bit",
            "reward_model",
            "reward_model_adapters",
            "reward_model_quantization_bit",
            "reward_model_type",
            "galore_target",
            "galore_rank",
            "galore_update_interval",
            "galore_scale",
            "galore_proj_type",
            "galore_layerwise",
            "apollo_target",
            "apollo_rank",
            "apollo_update_interval",
            "apollo_scale",
            "apollo_proj",
            "apollo_proj_type",
            "apollo_scale_type",
            "apollo_layerwise",
            "apollo_scale_front",
            "badam_mode",
            "badam_start_block",
            "badam_switch_mode",
            "badam_switch_interval",
            "badam_update_ratio",
            "badam_mask_mode",
            "badam_verbose",
            "swanlab_project",
            "swanlab_workspace",
            "swanlab_run_name",
            "swanlab_mode",
            "swanlab_api_key",
            "swanlab_logdir",
            "swanlab_lark_webhook_url",
            "swanlab_lark_secret",
            "fp8_backend",
            "fp8_enable_fsdp_float8_all_gather",
            "fsdp_config",
            "init_special_tokens",
            "kt_optimize_rule",
            "cpu_infer",
            "chunk_size",
            "mode",
            "kt_maxlen",
            "kt_use_cuda_graph",
            "kt_mode",
            "kt_force_think",
            "kt_weight_path",
            "kt_expert_checkpoint_path",
            "kt_use_lora_experts",
            "kt_lora_expert_num",
            "kt_lora_expert_intermediate_size",
            "asft_alpha",
            "eaft_alpha",
            "hyper_parallel_args",
            "profile_modules",
            "profiler_active_steps",
            "profiler_output_dir",
            "profiler_profile_memory",
            "profiler_record_shapes",
            "profiler_repeat",
            "profiler_wait_steps",
            "profiler_warmup_steps",
            "profiler_with_stack",
            "hub_strategy",
            "hub_always_push",
            "hub_private_repo",
            "hub_revision",
            "hub_token",
            "hub_model_id",
        ],
    },
    WithoutEffect {
        why: "no images, video or audio are trained on",
        keys: &[
            "image_max_pixels",
            "image_min_pixels",
            "image_do_pan_and_scan",
            "crop_to_patches",
            "video_max_pixels",
            "video_min_pixels",
            "video_fps",
            "video_maxlen",
            "use_audio_in_video",
            "audio_sampling_rate",
        ],
    },
];

const LIMITED: &[Limited] = &[
    Limited {
        harmless: &["sft"],
        hint: "lora-train does supervised fine-tuning: stage: sft",
        keys: &["stage"],
    },
    Limited {
        harmless: &["lora"],
        hint: "lora-train trains LoRA adapters: finetuning_type: lora",
        keys: &["finetuning_type"],
    },
    Limited {
        harmless: &["true"],
        hint: "lora-train trains; chat and evaluate do the rest",
        keys: &["do_train"],
    },
    Limited {
        harmless: &["false"],
        hint: "chat answers and evaluate scores, after the training",
        keys: &["do_predict", "predict_with_generate", "compute_accuracy"],
    },
    Limited {
        harmless: &["bnb", "bitsandbytes"],
        hint: "bitsandbytes' 4 bits are the one kind here: quantization_method: bnb",
        keys: &["quantization_method"],
    },
    Limited {
        harmless: &["auto"],
        hint: "--device chooses where to compute",
        keys: &["quantization_device_map"],
    },
    Limited {
        harmless: &["false"],
        hint: "only plain LoRA, rsLoRA (use_rslora) and LoRA+ (loraplus_lr_ratio) are trained",
        keys: &["use_dora", "pissa_init", "pissa_convert", "use_llama_pro", "create_new_adapter"],
    },
    Limited {
        harmless: &["0"],
        hint: "set it to 0; weight_decay and fewer epochs also keep from overfitting",
        keys: &["label_smoothing_factor"],
    },
    Limited {
        harmless: &[],
        hint: "remove it: only the linear layers of the blocks are trained, with an adapter",
        keys: &["additional_target"],
    },
    Limited {
        harmless: &["false"],
        hint: "AdamW is the optimizer here: optim: adamw_torch",
        keys: &["use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon", "adafactor"],
    },
    Limited {
        harmless: &["false"],
        hint: "the loss is the cross-entropy of the supervised tokens",
        keys: &["use_dft_loss", "use_asft_loss", "use_eaft_loss"],
    },
    Limited {
        harmless: &["false"],
        hint: "the model's own chat template writes what its reasoning looks like",
        keys: &["preserve_thinking"],
    },
    Limited {
        harmless: &[],
        hint: "remove it; adam_beta1, adam_beta2, adam_epsilon and weight_decay set the optimizer",
        keys: &["optim_args", "optim_target_modules"],
    },
    Limited {
        harmless: &[],
        hint: "remove it: every GPU holds the whole model in 4 bits, and memory is planned without it; shard_base: true \
               divides a base that has no room on each GPU",
        keys: &["deepspeed", "fsdp", "parallelism_config"],
    },
    Limited {
        harmless: &["false"],
        hint: "remove it: what it replaces is built in here",
        keys: &["use_mca", "use_kt", "use_hyper_parallel", "fp8", "use_swanlab", "enable_torch_profiler"],
    },
    Limited {
        harmless: &["concat"],
        hint: "datasets follow each other and are shuffled together: mix_strategy: concat",
        keys: &["mix_strategy"],
    },
    Limited {
        harmless: &[],
        hint: "remove it; max_samples and num_samples in dataset_info.json choose how much of a dataset is used",
        keys: &["interleave_probs"],
    },
    Limited {
        harmless: &["false"],
        hint: "remove it: all held-out examples make one loss",
        keys: &["eval_on_each_dataset"],
    },
    Limited {
        harmless: &["0"],
        hint: "remove it: evaluations begin with the first eval_steps",
        keys: &["eval_delay"],
    },
    Limited {
        harmless: &["false"],
        hint: "remove it: every example is seen in an epoch, in random order",
        keys: &["dataloader_drop_last", "group_by_length"],
    },
    Limited {
        harmless: &["random"],
        hint: "examples are seen in random order, or with disable_shuffling: true in that of the data",
        keys: &["train_sampling_strategy"],
    },
    Limited {
        harmless: &["steps"],
        hint: "logging_steps says when to log: logging_strategy: steps",
        keys: &["logging_strategy"],
    },
    Limited {
        harmless: &[],
        hint: "remove it: tools are written as the model's chat template writes them",
        keys: &["tool_format"],
    },
    Limited {
        harmless: &[],
        hint: "remove it: tokens are kept by themselves and used again while data and settings are the same",
        keys: &["tokenized_path"],
    },
    Limited {
        harmless: &[],
        hint: "remove it: the model is trained as its config.json describes it",
        keys: &[
            "rope_scaling",
            "mixture_of_depths",
            "add_tokens",
            "add_special_tokens",
            "new_special_tokens_config",
            "adapter_folder",
        ],
    },
    Limited {
        harmless: &["false"],
        hint: "remove it: the model is trained as its config.json describes it",
        keys: &["shift_attn", "resize_vocab", "train_from_scratch", "freeze_language_model"],
    },
    Limited {
        harmless: &["main"],
        hint: "fetch MODEL --revision NAME downloads it; name the directory here",
        keys: &["model_revision"],
    },
    Limited {
        harmless: &["false"],
        hint: "upload the adapter's directory after the training",
        keys: &["push_to_hub"],
    },
];

/// The reason why a key has no effect; `None` where its value asks for what is done anyway, or where the key
/// is not listed. A value that is not accepted is an error.
pub(super) fn check(key: &str, value: &str) -> Result<Option<&'static str>> {
    if let Some(found) = WITHOUT_EFFECT.iter().find(|group| group.keys.contains(&key)) {
        return Ok(Some(found.why));
    }
    let Some(found) = LIMITED.iter().find(|group| group.keys.contains(&key)) else { return Ok(None) };
    let same = |harmless: &&str| {
        let numbers = harmless.parse::<f64>().ok().zip(value.parse::<f64>().ok());
        // YAML 1.1 has three words for false.
        let falsehoods = *harmless == "false" && ["no", "off"].contains(&value.to_lowercase().as_str());
        *harmless == value || falsehoods || numbers.is_some_and(|(a, b)| a == b)
    };
    match found.harmless.iter().any(same) {
        true => Ok(None),
        false => Err(Error::usage(format!("{key}: {value} is not supported")).hint(found.hint)),
    }
}

/// Whether a key is listed here.
pub(super) fn is_known(key: &str) -> bool {
    known().any(|known| known == key)
}

/// All keys listed here.
pub(super) fn known() -> impl Iterator<Item = &'static str> {
    let without_effect = WITHOUT_EFFECT.iter().flat_map(|group| group.keys);
    without_effect.chain(LIMITED.iter().flat_map(|group| group.keys)).copied()
}

/// The known key that a misspelt one was meant to be: the one with the fewest edits, if they are few enough to
/// be a slip.
pub(super) fn nearest<'a>(key: &str, known: &'a [String]) -> Option<&'a str> {
    let edits = |name: &'a String| (strsim::levenshtein(key, name), name);
    let (edits, best) = known.iter().map(edits).min()?;
    (edits <= 1 + key.len() / 4).then_some(best)
}
