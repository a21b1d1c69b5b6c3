//! Ranks on several GPUs: sums over NCCL, gradients of a batch that is dealt to them, and a rank that is lost.
//!
//! Each rank is a process of its own: this program again, as a launcher would start it.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::print_stderr)] // says what a rank has found

use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use common::device::{DeviceChoice, Vector};
use common::error::Kind;
use common::model::{AdapterSettings, Batch, Model, Sequence};
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

/// How the ranks of the test `name` end, which this process may itself be one of: then `work` is its part.
fn ranks(name: &str, work: impl FnOnce(&World) -> Result<()>) -> Option<Vec<ExitStatus>> {
    if std::env::var_os("WORLD_SIZE").is_some() {
        world::run(DeviceChoice::Auto, work).unwrap();
        return None;
    }
    needs::gpus(2)?;
    Some(start(name, 2).into_iter().map(|mut child| child.wait().unwrap()).collect())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
#[ignore = "needs two NVIDIA GPUs"]
fn sums_are_the_same_bits_on_all_ranks_every_time() {
    let work = |world: &World| {
        let device = world.device(DeviceChoice::Auto)?.open()?;
        world.connect(&device)?;
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
    let Some(ends) = ranks(name, work) else { return };
    assert!(ends.iter().all(ExitStatus::success), "{ends:?}");
}

#[test]
#[ignore = "needs two NVIDIA GPUs"]
fn a_batch_that_is_dealt_has_the_gradients_of_the_whole() {
    let work = |world: &World| {
        let device = world.device(DeviceChoice::Auto)?.open()?;
        world.connect(&device)?;
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
    let Some(ends) = ranks("a_batch_that_is_dealt_has_the_gradients_of_the_whole", work) else { return };
    assert!(ends.iter().all(ExitStatus::success), "{ends:?}");
}

#[test]
#[ignore = "needs two NVIDIA GPUs"]
fn a_lost_rank_does_not_leave_others_waiting() {
    let name = "a_lost_rank_does_not_leave_others_waiting";
    if std::env::var_os("WORLD_SIZE").is_some() {
        let outcome = world::run(DeviceChoice::Auto, |world| {
            let device = world.device(DeviceChoice::Auto)?.open()?;
            world.connect(&device)?;
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
        });
        let error = outcome.unwrap_err().to_string();
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

#[test]
#[ignore = "needs two NVIDIA GPUs"]
fn ranks_that_share_a_gpu_are_an_error_of_all() {
    let work = |world: &World| {
        let device = DeviceChoice::Cuda(0).open()?;
        let error = world.connect(&device).unwrap_err().to_string();
        assert!(error.contains("ranks 0 and 1 on") && error.contains("have the same GPU, GPU-"), "{error}");
        Ok(())
    };
    let Some(ends) = ranks("ranks_that_share_a_gpu_are_an_error_of_all", work) else { return };
    assert!(ends.iter().all(ExitStatus::success), "{ends:?}");
}
