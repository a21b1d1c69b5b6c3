//! Ranks on several GPUs: sums over NCCL, gradients of a batch that is dealt to them, a base that is divided among them,
//! and a rank that is lost.
//!
//! Each rank is a process of its own: this program again, as a launcher would start it.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::print_stderr)] // says what a rank has found

use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use common::device::{Device, DeviceChoice, Vector};
use common::error::Kind;
use common::kernels::adamw::{AdamW, Moments};
use common::model::{AdapterSettings, Batch, Model, ModelSpec, Place, Places, Sequence};
use common::nf4::Scheme;
use common::world::{self, World, deal};
use common::{Result, error};
use serde_json::json;
use tests::needs;
use tests::random_model::write_model;
use tests::ranks::{make_rank, master_port};

/// Starts `size` ranks of the test `name`, each with a GPU of its own.
fn start(name: &str, size: usize) -> Vec<Child> {
    let port = master_port();
    let rank = |rank: usize| {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name, "--ignored", "--nocapture"]);
        make_rank(&mut child, rank, size, port);
        child.spawn().unwrap()
    };
    (0..size).map(rank).collect()
}

/// Whether this process is a rank that a test has started.
fn is_rank() -> bool {
    std::env::var_os("WORLD_SIZE").is_some()
}

/// Runs `work` on the ranks of the test `name`, once for each number of ranks in `sizes` that there are GPUs for. Every
/// rank has to succeed.
fn run_ranks(name: &str, sizes: &[usize], work: impl FnOnce(&World) -> Result<()>) {
    if is_rank() {
        return world::run(DeviceChoice::Auto, work).unwrap();
    }
    for size in sizes.iter().copied().filter(|size| needs::gpus(*size).is_some()) {
        let ends: Vec<_> = start(name, size).into_iter().map(|mut child| child.wait().unwrap()).collect();
        assert!(ends.iter().all(ExitStatus::success), "{size} ranks: {ends:?}");
    }
}

/// Runs `work` on two ranks of the test `name`. Rank 1 has to abort in it, and rank 0 to end with an error that names
/// rank 1.
fn lose_rank_1(name: &str, work: impl FnOnce(&World) -> Result<()>) {
    if is_rank() {
        let error = world::run(DeviceChoice::Auto, work).unwrap_err().to_string();
        assert!(error.contains("rank 1 on ") && error.contains("was lost"), "{error}");
        return;
    }
    if needs::gpus(2).is_none() {
        return;
    }
    let mut children = start(name, 2);
    assert!(!children[1].wait().unwrap().success());
    assert!(children[0].wait().unwrap().success(), "rank 0 has named the other");
}

/// Opens the GPU of this rank, and connects it with those of all ranks.
fn open(world: &World) -> Result<Device> {
    let device = world.device(DeviceChoice::Auto)?.open()?;
    world.connect(&device)?;
    Ok(device)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
#[ignore = "needs two NVIDIA GPUs"]
fn sums_are_the_same_bits_on_all_ranks_every_time() {
    let work = |world: &World| {
        let device = open(world)?;
        let value = |rank: usize, index: usize| ((index * 31 + rank * 17) % 1009) as f32 * 0.37 - 180.0;
        for len in [1, 1000, 1_000_003, 20_185_088] {
            let own: Vec<f32> = (0..len).map(|index| value(world.rank(), index)).collect();
            let begun = Instant::now();
            let mut sums = Vector::from_vec(own.clone(), &device)?;
            world.add_up(&mut sums)?;
            let (found, seconds) = (sums.to_vec()?, begun.elapsed().as_secs_f64());
            for (index, found) in found.iter().enumerate().step_by(997) {
                let expected: f32 = (0..world.size()).map(|rank| value(rank, index)).sum();
                assert!((found - expected).abs() < 1e-3, "{index}: {found}, not {expected}");
            }
            let mut again = Vector::from_vec(own, &device)?;
            world.add_up(&mut again)?;
            assert_eq!(bits(&found), bits(&again.to_vec()?), "the same every time");
            let sum: u64 = bits(&found).into_iter().map(u64::from).sum();
            let all = world.gather(sum)?;
            assert!(all.iter().all(|other| *other == sum), "the same on all ranks: {all:?}");
            eprintln!("rank {}: {len} values in {seconds:.4} s with their copies", world.rank());
        }
        Ok(())
    };
    let name = "sums_are_the_same_bits_on_all_ranks_every_time";
    run_ranks(name, &[2], work);
}

#[test]
#[ignore = "needs two NVIDIA GPUs"]
fn a_batch_that_is_dealt_has_the_gradients_of_the_whole() {
    let work = |world: &World| {
        let device = open(world)?;
        let directory = tempfile::tempdir()?;
        let shape = json!({"model_type": "llama", "vocab_size": 96, "hidden_size": 256, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 192,
            "max_position_embeddings": 4096});
        write_model(&shape, directory.path());
        let mut model = Model::load(directory.path(), &device)?;
        model.add_adapters(&AdapterSettings { seed: 5, ..AdapterSettings::default() })?;
        let lengths = [31, 7, 64, 12, 40, 3, 55, 20];
        let sequences: Vec<Vec<u32>> =
            lengths.iter().map(|len| (0..*len).map(|token| token * 7 % 90).collect()).collect();
        let gradients = |items: &[usize]| -> Result<(f64, Vector)> {
            let trained = [true; 64];
            let chosen = items.iter().map(|&item| &sequences[item]);
            let chosen = chosen.map(|tokens| Sequence { tokens, trained: &trained[..tokens.len()] });
            let batch = Batch::pack(chosen, 0);
            let mut gradients = Vector::zeros(model.adapters().values.len(), &device)?;
            let loss = model.loss_and_gradients(&batch, 1e-2, 0, &mut gradients)?;
            Ok((loss.sum, gradients))
        };
        let (whole_loss, whole) = gradients(&[0, 1, 2, 3, 4, 5, 6, 7])?;
        let lengths = lengths.map(|len| len as usize);
        let (own_loss, mut own) = gradients(&deal::deal(&lengths, world.size())[world.rank()])?;
        world.add_up(&mut own)?;
        let [loss] = world.sums([own_loss])?;
        assert!((loss - whole_loss).abs() < 1e-2 * whole_loss, "{loss}, not {whole_loss}");
        let (found, expected) = (own.to_vec()?, whole.to_vec()?);
        let norm = |values: &[f32]| values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        let apart: Vec<f32> = found.iter().zip(&expected).map(|(a, b)| a - b).collect();
        let share = norm(&apart) / norm(&expected);
        eprintln!("rank {}: losses {loss} and {whole_loss}, gradients {share:.4} apart", world.rank());
        // Both are computed in 16-bit numbers, whose relative precision is 2⁻⁸.
        assert!(norm(&expected) > 0.0 && share < 0.05, "{share}");
        Ok(())
    };
    run_ranks("a_batch_that_is_dealt_has_the_gradients_of_the_whole", &[2], work);
}

#[test]
#[ignore = "needs two NVIDIA GPUs"]
fn a_lost_rank_does_not_leave_others_waiting() {
    let name = "a_lost_rank_does_not_leave_others_waiting";
    let work = |world: &World| {
        let device = open(world)?;
        let mut values = Vector::zeros(1 << 24, &device)?;
        world.add_up(&mut values)?;
        if world.rank() == 1 {
            std::process::abort();
        }
        let begun = Instant::now();
        let stopped = world.add_up(&mut values).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
        if stopped.kind() != Kind::Interrupted {
            return Err(error!("the sum fails by itself: {stopped}").hint("it should be told to stop"));
        }
        Err(stopped)
    };
    lose_rank_1(name, work);
}

#[test]
#[ignore = "needs two NVIDIA GPUs"]
fn ranks_that_share_a_gpu_are_an_error_of_all() {
    let work = |world: &World| {
        let device = DeviceChoice::Cuda(0).open()?;
        let error = world.connect(&device).unwrap_err().to_string();
        assert!(error.contains("ranks 0 and 1 on") && error.contains("have the same GPU, GPU-"), "{error}");
        Ok(())
    };
    run_ranks("ranks_that_share_a_gpu_are_an_error_of_all", &[2], work);
}

/// A model of five blocks, whose bytes no number of ranks divides evenly.
fn write_five_blocks(directory: &Path) {
    let shape = json!({"model_type": "llama", "vocab_size": 96, "hidden_size": 256, "num_hidden_layers": 5,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 448,
        "max_position_embeddings": 4096});
    write_model(&shape, directory);
}

/// The model with adapters, and with the blocks that the ranks share where `places` says.
fn load_among(
    directory: &Path,
    scheme: Option<Scheme>,
    device: &Device,
    places: &Places,
    world: &World,
) -> Result<Model> {
    let place = |_: &_| Ok(places.clone());
    let mut model = Model::load_among(directory, scheme, device, place, world)?;
    model.add_adapters(&AdapterSettings { seed: 5, ..AdapterSettings::default() })?;
    Ok(model)
}

/// The bytes of a GPU that buffers take.
fn used_memory(device: &Device) -> Result<u64> {
    let Device::Cuda(gpu) = device else { return Ok(0) };
    gpu.synchronize()?;
    Ok(gpu.memory()?.used)
}

fn batch_of(number: usize, is_trained: bool) -> Batch {
    let tokens: Vec<u32> = (0..300).map(|token| ((token * 7 + number * 13) % 90) as u32).collect();
    let trained = vec![is_trained; tokens.len()];
    let sequences = [&tokens[..100], &tokens[100..]];
    let sequences = sequences.map(|tokens| Sequence { tokens, trained: &trained[..tokens.len()] });
    Batch::pack(sequences, 0)
}

/// Losses, gradients and parameters of this rank in steps of unequal passes: rank 0 has two in a step, rank 1 one, another
/// rank none, and in the second step rank 1 has a pass of which no token is trained.
fn computed_in_step(mut model: Model, world: &World) -> Result<(Vec<f64>, Vec<u32>, Vec<u32>)> {
    let (rank, device) = (world.rank(), model.device().clone());
    let count = model.adapters().values.len();
    let own = [2, 1].get(rank).copied().unwrap_or(0);
    let mut moments = Moments::new(count, &device)?;
    let optimizer = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    let (mut losses, mut summed) = (Vec::new(), Vec::new());
    for step in 0..3 {
        let mut gradients = Vector::zeros(count, &device)?;
        for pass in 0..2 {
            match pass < own {
                true => {
                    let batch = batch_of(100 * rank + 10 * step + pass, step != 1 || rank != 1);
                    let recomputed = [0, 2, usize::MAX][step];
                    losses.push(model.loss_and_gradients(&batch, 1e-2, recomputed, &mut gradients)?.sum);
                }
                false => model.accompany_training()?,
            }
        }
        world.add_up(&mut gradients)?;
        summed.extend(bits(&gradients.to_vec()?));
        model.update_parameters(|parameters| {
            optimizer.step(parameters, &gradients, 1.0, &mut moments, 1e-3)
        })?;
        match rank {
            0 => losses.push(model.loss(&batch_of(50, true))?.sum),
            1 => losses.push(model.loss(&batch_of(60, false))?.sum),
            _ => model.accompany_loss()?,
        }
    }
    Ok((losses, summed, bits(&model.adapters().values.to_vec()?)))
}

#[test]
#[ignore = "needs two NVIDIA GPUs"]
fn a_sharded_model_computes_the_bits_of_a_whole_one() {
    let work = |world: &World| {
        let device = open(world)?;
        let directory = tempfile::tempdir()?;
        write_five_blocks(directory.path());
        for scheme in [Some(Scheme::default()), None] {
            let load = |places: &Places| load_among(directory.path(), scheme, &device, places, world);
            let spec = ModelSpec::read(directory.path(), scheme)?;
            let whole = computed_in_step(load(&Places::resident(5))?, world)?;
            for (sharded, slots) in [(5, 1), (5, 2), (5, 3), (3, 2), (1, 1)] {
                let places = Places::sharding(5, sharded, slots, world.size());
                let name = format!("rank {}: {sharded} blocks through {slots} slots", world.rank());
                let place = |_: &_| Ok(places.clone());
                let bare = Model::load_among(directory.path(), scheme, &device, place, world)?;
                let used = used_memory(&device)?;
                drop(bare);
                let (used, planned) = (used - used_memory(&device)?, spec.gpu_bytes_at(&places));
                assert!((used..used + 65_536).contains(&planned), "{used} used, {planned} planned: {name}");
                let model = load(&places)?;
                assert!(model.is_sharded());
                let found = computed_in_step(model, world)?;
                assert_eq!(found.0, whole.0, "losses: {name}");
                assert!(found.1 == whole.1, "gradients: {name}");
                assert!(found.2 == whole.2, "parameters: {name}");
            }
            eprintln!("rank {}: the same bits, {scheme:?}", world.rank());
        }
        Ok(())
    };
    let name = "a_sharded_model_computes_the_bits_of_a_whole_one";
    // Three ranks have one without passes.
    run_ranks(name, &[2, 3], work);
}

/// Two ranks that stream from one copy in the host's memory compute the bits of ranks that hold all weights.
#[test]
#[ignore = "needs two NVIDIA GPUs"]
fn ranks_that_share_streamed_weights_compute_the_bits_of_resident_ones() {
    let work = |world: &World| {
        let device = open(world)?;
        let directory = tempfile::tempdir()?;
        write_five_blocks(directory.path());
        assert_eq!(world.lockable_memory(0)?.copies().unwrap(), "once for the 2 processes of a machine");
        for scheme in [Some(Scheme::default()), None] {
            let load = |places: &Places| load_among(directory.path(), scheme, &device, places, world);
            let whole = computed_in_step(load(&Places::resident(5))?, world)?;
            for (streamed, slots) in [(5, 1), (5, 2), (3, 2), (1, 1)] {
                let name = format!("rank {}: {streamed} blocks through {slots} slots", world.rank());
                let model = load(&Places::streaming(5, streamed, slots, Place::PageLocked))?;
                assert!(model.is_streamed() && !model.is_sharded());
                assert!(computed_in_step(model, world)? == whole, "{name}");
            }
            eprintln!("rank {}: the same bits from one copy, {scheme:?}", world.rank());
        }
        Ok(())
    };
    let name = "ranks_that_share_streamed_weights_compute_the_bits_of_resident_ones";
    run_ranks(name, &[2], work);
}

/// A rank waits on its GPU for the part of another that is lost, and is released as soon as it is told.
#[test]
#[ignore = "needs two NVIDIA GPUs"]
fn a_lost_rank_does_not_leave_gathers_waiting() {
    let name = "a_lost_rank_does_not_leave_gathers_waiting";
    let work = |world: &World| {
        let device = open(world)?;
        let directory = tempfile::tempdir()?;
        write_five_blocks(directory.path());
        let places = Places::sharding(5, 5, 2, world.size());
        let model = load_among(directory.path(), None, &device, &places, world)?;
        let mut gradients = Vector::zeros(model.adapters().values.len(), &device)?;
        let batch = batch_of(0, true);
        model.loss_and_gradients(&batch, 1e-2, 0, &mut gradients)?;
        if world.rank() == 1 {
            std::process::abort();
        }
        let begun = Instant::now();
        // Nothing but the communicator's end lets the GPU compute this.
        let _ = model.loss_and_gradients(&batch, 1e-2, 0, &mut gradients);
        assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
        world.check()?;
        Err(error!(Bug, "rank 0 has computed without the parts of rank 1"))
    };
    lose_rank_1(name, work);
}
