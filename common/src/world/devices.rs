//! The device of each rank, and sums over the ranks of values on it: over NCCL on GPUs, through rank 0 on CPUs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::exchange::World;
use crate::device::cuda::{Communicator, Gpu};
use crate::device::{Device, DeviceChoice, Vector};
use crate::{Error, Result, cli, error};

/// The device of a rank, as ranks tell it each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Card {
    /// The name of the GPU; `None` for the CPU.
    name: Option<String>,
    /// The UUID of the GPU; empty for the CPU.
    identity: String,
}

impl World {
    /// The device of this rank: the GPU of its number on its machine, where `choice` leaves that open.
    pub fn device(&self, choice: DeviceChoice) -> Result<DeviceChoice> {
        device(choice, self.local_rank, self.size, Gpu::count)
    }

    /// Fails where ranks share a GPU, or where only some have one. Called on all ranks.
    pub fn compare(&self, device: &Device) -> Result<()> {
        if self.star.is_none() {
            return Ok(());
        }
        let card = match device {
            Device::Cpu => Card { name: None, identity: String::new() },
            Device::Cuda(gpu) => Card { name: Some(gpu.name().to_owned()), identity: gpu.identity()? },
        };
        let cards = self.gather(card)?;
        check(&cards, &self.hosts)?;
        let others: Vec<&Card> = cards.iter().filter(|card| card.name != cards[0].name).collect();
        if let [other, ..] = others[..] {
            let name = |card: &Card| card.name.clone().unwrap_or_default();
            cli::note(format_args!(
                "the GPUs differ: {} and {}; all get the same share of the work",
                name(&cards[0]),
                name(other)
            ));
        }
        Ok(())
    }

    /// Makes sums and gathers over the ranks of values on `device` possible. Called on all ranks, before the free memory of
    /// the device is looked at. Fails as [`World::compare`] does.
    pub fn connect(&self, device: &Device) -> Result<()> {
        self.compare(device)?;
        let (Some(star), Device::Cuda(gpu)) = (&self.star, device) else { return Ok(()) };
        let id = self.from_first(Communicator::unique_id)?;
        let ending = Arc::clone(star.ending());
        let check = Box::new(move || ending.check());
        let communicator = Arc::new(Communicator::new(gpu, &id, self.rank, self.size, check)?);
        let released = Arc::downgrade(&communicator);
        star.ending().at_end(move || {
            if let Some(communicator) = released.upgrade() {
                communicator.give_up();
            }
        });
        let mut one = Vector::from_vec(vec![1.0], device)?;
        communicator.sum(one.gpu_mut()?)?;
        let found = one.to_vec()?;
        if found != [self.size as f32] {
            return Err(error!(Gpu, "NCCL sums {} ones to {found:?}", self.size));
        }
        cli::verbose(format_args!("{} ranks over NCCL {}", self.size, communicator.version()));
        let _ = self.communicator.set(communicator);
        Ok(())
    }

    /// What connects the GPUs of all ranks, once [`World::connect`] has made it.
    pub fn communicator(&self) -> Option<Arc<Communicator>> {
        self.communicator.get().cloned()
    }

    /// Replaces the values by their sums over all ranks: the same bits on every rank, and the same from run to
    /// run.
    pub fn add_up(&self, values: &mut Vector) -> Result<()> {
        let Some(star) = &self.star else { return Ok(()) };
        match (&mut *values, self.communicator.get()) {
            (Vector::Cuda(values), Some(communicator)) => communicator.sum(values),
            (Vector::Cuda(_), None) => Err(error!(Bug, "sums of values on a GPU without a communicator")),
            (Vector::Cpu(values), _) => {
                let parts = star.gather(bytemuck::cast_slice(values).to_vec())?;
                for part in parts.iter().skip(1) {
                    if part.len() != size_of_val(&values[..]) {
                        return Err(error!(
                            Bug,
                            "sums of {} values and of {} bytes",
                            values.len(),
                            part.len()
                        ));
                    }
                    let part = part.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                    values.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
                }
                let own = if self.is_first() { bytemuck::cast_slice(values).to_vec() } else { Vec::new() };
                let sums = star.spread(own)?;
                let sums = sums.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                values.iter_mut().zip(sums).for_each(|(value, sum)| *value = sum);
                Ok(())
            }
        }
    }

    /// The least of a number of every rank, such as the free bytes of its GPU.
    pub fn least(&self, number: u64) -> Result<u64> {
        Ok(self.gather(number)?.into_iter().min().unwrap_or(number))
    }
}

/// The device of a rank that is the `local_rank`th of its machine, in a run of `size` ranks.
fn device(
    choice: DeviceChoice,
    local_rank: usize,
    size: usize,
    gpus: impl Fn() -> usize,
) -> Result<DeviceChoice> {
    match choice {
        _ if size == 1 && local_rank == 0 => Ok(choice),
        DeviceChoice::Cpu | DeviceChoice::Cuda(_) => Ok(choice),
        DeviceChoice::Auto => match gpus() {
            0 => Ok(DeviceChoice::Cpu),
            count if local_rank < count => Ok(DeviceChoice::Cuda(local_rank)),
            // The launcher shows every rank a GPU of its own; whether that is so is checked later.
            1 => Ok(DeviceChoice::Cuda(0)),
            count => Err(error!(
                "there are more ranks on this machine than GPUs: rank {local_rank} of the machine, and {count} GPUs"
            )
            .hint(FEWER)),
        },
    }
}

/// What to do about more ranks than GPUs.
const FEWER: &str = "start one rank for each GPU (torchrun --nproc-per-node, mpirun -np, srun --ntasks-per-node); \
                     CUDA_VISIBLE_DEVICES may hide some";

/// Fails where ranks share a GPU, or where only some have one.
fn check(cards: &[Card], hosts: &[String]) -> Result<()> {
    let of = |rank: usize| match &cards[rank].name {
        Some(name) => format!("on {name}"),
        None => "on the CPU".to_owned(),
    };
    let host = |rank: usize| hosts.get(rank).map_or("this machine", String::as_str);
    for rank in 1..cards.len() {
        if cards[rank].name.is_some() != cards[0].name.is_some() {
            return Err(error!(
                "rank 0 on {} computes {}, and rank {rank} on {} {}",
                host(0),
                of(0),
                host(rank),
                of(rank)
            )
            .hint("every rank needs a GPU, or --device cpu; nvidia-smi lists the GPUs of a machine"));
        }
        let same = |other: &usize| cards[*other].identity == cards[rank].identity;
        if let Some(other) = (0..rank).find(same).filter(|_| cards[rank].name.is_some()) {
            return Err(Error::usage(format!(
                "ranks {other} and {rank} on {} have the same GPU, {}",
                host(rank),
                cards[rank].identity
            ))
            .hint(format_args!("leave --device out; {FEWER}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rank_of_a_machine_has_the_gpu_of_its_number() {
        let chosen = |choice, local_rank, size, gpus| device(choice, local_rank, size, || gpus);
        let auto = DeviceChoice::Auto;
        assert_eq!(chosen(auto, 0, 1, 8).unwrap(), auto, "alone");
        assert_eq!(chosen(auto, 3, 4, 4).unwrap(), DeviceChoice::Cuda(3));
        assert_eq!(chosen(auto, 3, 4, 1).unwrap(), DeviceChoice::Cuda(0), "each sees its own");
        assert_eq!(chosen(auto, 3, 4, 0).unwrap(), DeviceChoice::Cpu);
        assert_eq!(chosen(DeviceChoice::Cpu, 3, 4, 4).unwrap(), DeviceChoice::Cpu);
        let error = chosen(auto, 2, 4, 2).unwrap_err();
        assert!(error.to_string().contains("rank 2 of the machine, and 2 GPUs"), "{error}");
        assert!(error.hint_text().unwrap().contains("--nproc-per-node"));
    }

    #[test]
    fn ranks_that_share_a_gpu_or_lack_one_are_named() {
        let gpu = |identity: &str| Card { name: Some("H100".into()), identity: identity.into() };
        let cpu = || Card { name: None, identity: String::new() };
        let hosts = ["a", "b", "c"].map(String::from);
        check(&[gpu("x"), gpu("y"), gpu("z")], &hosts).unwrap();
        check(&[cpu(), cpu(), cpu()], &hosts).unwrap();
        let shared = check(&[gpu("x"), gpu("y"), gpu("y")], &hosts).unwrap_err().to_string();
        assert_eq!(shared, "ranks 1 and 2 on c have the same GPU, y");
        let mixed = check(&[gpu("x"), cpu(), cpu()], &hosts).unwrap_err().to_string();
        assert_eq!(mixed, "rank 0 on a computes on H100, and rank 1 on b on the CPU");
    }
}
