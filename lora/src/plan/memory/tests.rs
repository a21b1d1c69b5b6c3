use super::*;
use ::tests::hollow_model;
use common::model::AdapterSettings;
use serde_json::{Value, json};
use std::path::Path;

fn request() -> PassRequest {
    PassRequest { longest: 100, tokens: 1000, ranks: [24, 8, 16, 8].repeat(2), dropout: false }
}

fn resident(model: &str) -> (ModelSpec, ResidentBytes) {
    of_directory(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/models").join(model))
}

fn of_directory(directory: &Path) -> (ModelSpec, ResidentBytes) {
    let spec = ModelSpec::read(directory, None).unwrap();
    let layout = spec.new_adapters(&AdapterSettings::default()).unwrap();
    let resident = spec.resident_on_gpu(&layout, &MomentsSpec::exact(layout.len));
    (spec, resident)
}

fn budget(bytes: u64, available: u64) -> Budget {
    Budget { bytes, available, is_asked: bytes < available, on_host: LockableMemory::of_one(1 << 40) }
}

/// [`super::fit`] with all weights on the GPU.
fn fit(
    spec: &ModelSpec,
    resident: &ResidentBytes,
    request: &PassRequest,
    budget: Budget,
) -> Result<PassPlan> {
    super::fit(spec, &Places::resident(spec.config().layers.len()), resident, request, budget)
}

/// The placement of a model's weights within a budget, or the error that says what would help.
fn place(
    spec: &ModelSpec,
    resident: ResidentBytes,
    request: &PassRequest,
    budget: Budget,
) -> Result<Placement> {
    let placement = spec.place(resident, request, budget.bytes, budget.on_host);
    super::fit(spec, &placement.places, &placement.resident, request, budget)?;
    Ok(placement)
}

/// The plan of a run with this placement.
fn plan(placement: Placement, spec: &ModelSpec, request: &PassRequest, budget: Budget) -> MemoryPlan {
    let Placement { places, resident, passes } = placement;
    MemoryPlan {
        passes,
        places,
        resident,
        spec: spec.clone(),
        request: request.clone(),
        budget: Some(budget),
        paged: 0,
        copy_rate: None,
        shard_base: false,
        reads_table: true,
        is_quantized_by_loading: false,
    }
}

/// A model of 20 layers, whose file has a hole in the place of weights.
fn hollow(directory: &Path) -> (ModelSpec, ResidentBytes) {
    let config = json!({"model_type": "llama", "vocab_size": 1000, "hidden_size": 512,
        "num_hidden_layers": 20, "num_attention_heads": 8, "num_key_value_heads": 2,
        "intermediate_size": 2048, "max_position_embeddings": 4096, "tie_word_embeddings": false});
    hollow_model::write_model(&config, None, directory);
    of_directory(directory)
}

/// Qwen2.5-72B in 4 bits with adapters of rank 8 on all layers, on cards of 24 GiB.
#[test]
fn four_cards_share_what_one_has_no_room_for() {
    let directory = tempfile::tempdir().unwrap();
    let shape = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/bench/qwen2.5-72b.json");
    let shape: Value = serde_json::from_str(&std::fs::read_to_string(shape).unwrap()).unwrap();
    hollow_model::write_model(&shape, None, directory.path());
    let spec = ModelSpec::read(directory.path(), Some(Scheme::default())).unwrap();
    let layout = spec.new_adapters(&AdapterSettings::default()).unwrap();
    let resident = spec.resident_on_gpu(&layout, &MomentsSpec::exact(layout.len));
    let request = PassRequest { longest: 1024, tokens: 8192, ranks: layout.ranks(), dropout: false };
    let card = budget(24 << 30, 1 << 40);
    let place = |ranks| {
        let placement = spec.place_sharded(resident, &request, (card.bytes, card.on_host), ranks);
        super::fit(&spec, &placement.places, &placement.resident, &request, card).map(|_| placement)
    };

    let four = place(4).unwrap();
    assert_eq!(four.places.streamed(), 80);
    assert!(four.passes.tokens >= 4096, "{:?}", four.passes);
    assert!(four.resident.total() + four.passes.activations() <= card.bytes);
    let summary = four.places.summary(&spec.block_bytes());
    assert!(summary.starts_with("80 of 80 blocks, with a part of 8"), "{summary}");
    assert!(summary.contains(" on each of 4 GPUs, gathered through 2 slots of 4"), "{summary}");

    let eight = place(8).unwrap();
    assert!(eight.passes.tokens > four.passes.tokens, "more GPUs leave more to passes");
    let hint = place(1).unwrap_err().hint_text().unwrap().to_owned();
    assert!(
        hint.contains("more GPUs leave less to each; without --shard-base, blocks lie on the host"),
        "{hint}"
    );
}

#[test]
fn blocks_are_streamed_where_no_pass_fits_beside_all() {
    let directory = tempfile::tempdir().unwrap();
    let (spec, resident) = hollow(directory.path());
    let bytes = spec.block_bytes();
    let (all, block) = (bytes.iter().sum::<u64>(), bytes[0]);
    let request = PassRequest { ranks: [24, 8, 16, 8].repeat(20), ..request() };
    let passes = spec.config().plan_on_gpu(&request, 0);
    let placed = |bytes| place(&spec, resident, &request, budget(bytes, 1 << 40));

    // A run that fits is planned as if nothing could be streamed.
    let needed = resident.total() + passes.least();
    let whole = placed(needed).unwrap();
    assert_eq!((whole.places.streamed(), whole.resident), (0, resident));
    assert_eq!(whole.passes, fit(&spec, &resident, &request, budget(needed, 1 << 40)).unwrap());

    // One byte less: passes get all tokens that are asked for, and blocks what is left.
    let streamed = placed(needed - 1).unwrap();
    assert_eq!((streamed.passes.tokens, streamed.places.slots()), (1000, 3));
    assert!((4..20).contains(&streamed.places.streamed()), "{:?}", streamed.places);
    assert!(streamed.resident.total() + streamed.passes.activations() < needed);
    assert_eq!(streamed.resident.weights, spec.gpu_bytes_at(&streamed.places));
    let one_more = streamed.resident.total() + block + passes.least_of(1000);
    assert!(one_more > needed - 1, "as many blocks stay as there is room for");

    // As little as can be: two slots, and the tokens of the longest example.
    let least = resident.total() - all + 2 * block + passes.least();
    let short = placed(least).unwrap();
    assert_eq!((short.places.streamed(), short.places.slots(), short.passes.tokens), (20, 2, 100));
    let error = placed(least - 1).err().unwrap();
    let would_do = least.div_ceil(1 << 20);
    assert!(error.hint_text().unwrap().starts_with(&format!("--vram-budget {would_do}MiB would do; ")));
}

#[test]
fn ranks_of_a_machine_count_the_weights_that_they_share_once() {
    let directory = tempfile::tempdir().unwrap();
    let (spec, resident) = hollow(directory.path());
    let (bytes, request) =
        (spec.block_bytes(), PassRequest { ranks: [24, 8, 16, 8].repeat(20), ..request() });
    let short = resident.total() - bytes.iter().sum::<u64>()
        + 2 * bytes[0]
        + spec.config().plan_on_gpu(&request, 0).least();
    let planned = |on_host| {
        let budget = Budget { on_host, ..budget(short, 1 << 40) };
        plan(place(&spec, resident, &request, budget).unwrap(), &spec, &request, budget)
    };
    // All twenty blocks are streamed, and the host has room for eight.
    let machine = |is_shared| planned(LockableMemory::of_machine(8 * bytes[0], 4, is_shared));
    let (shared, own) = (machine(true), machine(false));
    let locked = |plan: &MemoryPlan| (plan.places.streamed(), plan.places.count(Place::PageLocked));
    assert_eq!((locked(&shared), locked(&own)), ((20, 8), (20, 2)));
    let said = [&shared, &own].map(|plan| plan.copies().unwrap());
    let all = |blocks: u64| size(blocks * bytes[0]);
    assert_eq!(
        said[0],
        format!("  Host memory = {} of streamed weights, once for the 4 processes of a machine", all(8))
    );
    assert_eq!(
        said[1],
        format!("  Host memory = {} of streamed weights, in each of the 4 processes of a machine", all(2))
    );
    assert_eq!(planned(LockableMemory::of_one(8 * bytes[0])).copies(), None);
}

#[test]
fn a_long_sequence_is_cut_and_its_inputs_wait_on_the_host() {
    let directory = tempfile::tempdir().unwrap();
    let (spec, resident) = hollow(directory.path());
    let request = PassRequest { longest: 100_000, ranks: [24, 8, 16, 8].repeat(20), ..request() };
    let least = |on_host| spec.config().plan_on_gpu_and_host(&request, 0, on_host).least();
    let input = 2 * 512 * 100_000;
    let bytes = resident.total() + least(18 * input);
    let placed = |on_host| {
        let on_host = LockableMemory::of_one(on_host);
        place(&spec, resident, &request, Budget { on_host, ..budget(bytes, 1 << 40) })
    };
    let plan = plan(placed(18 * input).unwrap(), &spec, &request, budget(bytes, 1 << 40));
    assert_eq!((plan.places.streamed(), plan.passes.offloaded_bytes()), (0, 18 * input));
    let expected = "  Offloaded = inputs of 18 of 20 blocks, in 1758 MiB of page-locked host memory between their \
                    forward and their backward";
    assert_eq!(plan.offloaded().unwrap(), expected);
    let said = plan.activations();
    assert!(said.contains("passes of up to 100000 tokens at "), "{said}");
    let end = "19 of 20 blocks recomputed, feed-forward and head in slices of 8192 tokens";
    assert!(said.ends_with(end), "{said}");

    // Where the host has room for one input less, blocks that are streamed make room for it on the GPU.
    let streamed = placed(17 * input).unwrap();
    assert_eq!(streamed.passes.offloaded_bytes(), 17 * input);
    assert!(streamed.places.count(Place::File) > 0, "{:?}", streamed.places);
    let error = placed(15 * input).err().unwrap().to_string();
    assert!(error.contains("the longest example of 100000 tokens"), "{error}");
}

#[test]
fn what_fits_stays_within_the_budget() {
    let (spec, resident) = resident("llama");
    let least = resident.total() + spec.config().plan_on_gpu(&request(), 0).least();
    for bytes in [least, least + 1000, least + (1 << 20), 1 << 30] {
        let passes = fit(&spec, &resident, &request(), budget(bytes, 1 << 40)).unwrap();
        assert!(resident.total() + passes.activations() + passes.spare() <= bytes);
        assert!(passes.tokens >= request().longest);
    }
    assert!(fit(&spec, &resident, &request(), budget(least - 1, 1 << 40)).is_err());
    // What a model takes beyond the plan goes off what passes may have.
    let more = ResidentBytes { scratch: resident.scratch + (64 << 20), ..resident };
    let passes = fit(&spec, &more, &request(), budget(least + (64 << 20), 1 << 40)).unwrap();
    assert_eq!(more.total() + passes.activations(), least + (64 << 20));
}

#[test]
fn what_does_not_fit_is_refused_with_numbers_and_what_would_do() {
    let (spec, resident) = resident("llama");
    let needed = resident.total() + spec.config().plan_on_gpu(&request(), 0).least();
    let error = fit(&spec, &resident, &request(), budget(32 << 20, 1 << 40)).unwrap_err();
    let (said, hint) = (error.to_string(), error.hint_text().unwrap_or_default().to_owned());
    assert!(said.contains("and 32 MiB are allowed: ") && said.contains("100 tokens"), "{said}");
    let would_do = needed.div_ceil(1 << 20);
    assert!(hint.starts_with(&format!("--vram-budget {would_do}MiB would do; ")), "{hint}");
    assert!(hint.contains("--quantization-bit 4") && hint.contains("--cutoff-len"), "{hint}");
    assert!(fit(&spec, &resident, &request(), budget(would_do << 20, 1 << 40)).is_ok());

    // More than there is cannot be allowed, and what is in 4 bits is not quantized again.
    let (spec, resident) = self::resident("llama/nf4");
    let error = fit(&spec, &resident, &request(), budget(10 << 20, 10 << 20)).unwrap_err();
    let (said, hint) = (error.to_string(), error.hint_text().unwrap_or_default().to_owned());
    assert!(said.contains("and 10 MiB are free: "), "{said}");
    assert!(hint.starts_with("other programs may hold GPU memory"), "{hint}");
    assert!(!hint.contains("--vram-budget") && !hint.contains("--quantization-bit"), "{hint}");
}
