//! The place of this process among the processes of a run, as launchers write it into environment variables.
//!
//! | launcher | variables |
//! |---|---|
//! | `lora-train` itself, torchrun, accelerate | `RANK`, `WORLD_SIZE`, `LOCAL_RANK`, `MASTER_ADDR`, `MASTER_PORT` |
//! | Open MPI | `OMPI_COMM_WORLD_RANK`, `_SIZE`, `_LOCAL_RANK`, `_LOCAL_SIZE` |
//! | MVAPICH | `MV2_COMM_WORLD_RANK`, `_SIZE`, `_LOCAL_RANK`, `_LOCAL_SIZE` |
//! | MPICH, Intel MPI | `PMI_RANK`, `PMI_SIZE`, `MPI_LOCALRANKID`, `MPI_LOCALNRANKS` |
//! | srun | `SLURM_PROCID`, `SLURM_STEP_NUM_TASKS`, `SLURM_LOCALID`, `SLURM_STEP_NODELIST`, `SLURM_JOB_ID` |

use crate::{Error, Result, cli};

/// The port that torchrun uses where none is named.
pub(super) const DEFAULT_PORT: u16 = 29500;
/// The most ranks that a run may have.
const MOST_RANKS: usize = 1 << 16;
/// What to do about a wrong variable.
const LAUNCHER_SETS_IT: &str = "a launcher such as torchrun sets it; unset it to start without one";
/// The address of this machine for itself.
pub(super) const LOOPBACK: &str = "127.0.0.1";

/// The place of a process among all processes of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The number of this process, from 0.
    pub rank: usize,
    /// The number of processes.
    pub size: usize,
    /// The number of this process among those of its machine, from 0.
    pub local_rank: usize,
    /// The host of rank 0.
    pub address: String,
    /// The port at which rank 0 waits for the others.
    pub port: u16,
    /// What tells this run from others; empty where the launcher gives it no name.
    pub run: String,
}

/// The variables of a launcher that says rank and size only: rank, size, local rank and local size.
const MPI: [[&str; 4]; 3] = [
    [
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ],
    ["MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"],
    ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"],
];

/// Environment variables, looked up by their names.
pub(super) struct Environment<F>(pub F);

impl<F: Fn(&str) -> Option<String>> Environment<F> {
    /// The place that a launcher has given this process; `None` where there is no launcher, or where srun has
    /// started a single process.
    pub(super) fn place(&self) -> Result<Option<Place>> {
        if self.text("WORLD_SIZE").is_some() {
            return self.of_torchrun().map(Some);
        }
        for names in MPI {
            if self.text(names[0]).is_some() {
                return self.of_mpi(names).map(Some);
            }
        }
        match self.text("SLURM_STEP_NUM_TASKS").as_deref() {
            None | Some("1") => Ok(None),
            Some(_) => self.of_slurm().map(Some),
        }
    }

    fn of_torchrun(&self) -> Result<Place> {
        let size = self.size("WORLD_SIZE", "WORLD_SIZE")?;
        let rank = self.needed("RANK", "WORLD_SIZE", size)?;
        let local_rank = self.number("LOCAL_RANK", size)?.unwrap_or(0);
        let address = match self.text("MASTER_ADDR") {
            Some(address) => address,
            None if size == 1 => LOOPBACK.to_owned(),
            None => {
                return Err(said_by_first(rank, "WORLD_SIZE is set and MASTER_ADDR is not")
                    .hint("set MASTER_ADDR to the host of rank 0, or start with torchrun --no-python"));
            }
        };
        // torchrun itself listens at MASTER_PORT.
        let port = self.port(DEFAULT_PORT)?;
        let run = self.text("QLORA_RUN").or_else(|| self.text("TORCHELASTIC_RUN_ID")).unwrap_or_default();
        Ok(Place { rank, size, local_rank, address, port, run })
    }

    fn of_mpi(&self, [rank, size, local_rank, local_size]: [&str; 4]) -> Result<Place> {
        let (rank_name, size_name) = (rank, size);
        let size = self.size(size_name, rank_name)?;
        let rank = self.needed(rank_name, rank_name, size)?;
        let local_rank = self.number(local_rank, size)?.unwrap_or(0);
        let is_one_machine = self.number(local_size, size + 1)? == Some(size);
        let address = match self.text("MASTER_ADDR") {
            Some(address) => address,
            None if is_one_machine || size == 1 => LOOPBACK.to_owned(),
            None => {
                let problem = format!(
                    "{size_name} says that {size} ranks are on several machines, and MASTER_ADDR is not set"
                );
                return Err(
                    said_by_first(rank, problem).hint("name the host of rank 0: mpirun -x MASTER_ADDR=HOST")
                );
            }
        };
        let port = self.port(DEFAULT_PORT)?;
        Ok(Place { rank, size, local_rank, address, port, run: String::new() })
    }

    fn of_slurm(&self) -> Result<Place> {
        let size = self.size("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_TASKS")?;
        let rank = self.needed("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", size)?;
        let local_rank = self.number("SLURM_LOCALID", size)?.unwrap_or(0);
        let nodes = self.text("SLURM_STEP_NODELIST").or_else(|| self.text("SLURM_NODELIST"));
        let address = self.text("MASTER_ADDR").or_else(|| first_host(&nodes?));
        let address = address.ok_or_else(|| {
            said_by_first(rank, "SLURM_STEP_NODELIST names no host, and MASTER_ADDR is not set")
                .hint("set MASTER_ADDR to the host of rank 0")
        })?;
        let job = self.text("SLURM_JOB_ID").unwrap_or_default();
        // Jobs that share a machine get different ports.
        let digits: String = job.chars().skip(job.chars().count().saturating_sub(4)).collect();
        let port = self.port(15000 + digits.parse::<u16>().unwrap_or(0).min(9999))?;
        Ok(Place { rank, size, local_rank, address, port, run: job })
    }

    /// The number of ranks, which must be set where `because` is.
    fn size(&self, name: &str, because: &str) -> Result<usize> {
        match self.needed(name, because, MOST_RANKS + 1)? {
            0 => Err(Error::usage(format!("the environment variable {name}: at least 1 expected, found 0"))
                .hint(LAUNCHER_SETS_IT)),
            size => Ok(size),
        }
    }

    /// The port after `MASTER_PORT`, or after `otherwise` where that is not set.
    fn port(&self, otherwise: u16) -> Result<u16> {
        let port = self.number("MASTER_PORT", usize::from(u16::MAX))?;
        Ok(port.map_or(otherwise, |port| port as u16) + 1)
    }

    /// The value of a variable; `None` where it is not set or empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        (self.0)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// The value of a variable as a number below `end`; `None` where it is not set.
    pub(super) fn number(&self, name: &str, end: usize) -> Result<Option<usize>> {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) if number < end => Ok(Some(number)),
            _ => Err(Error::usage(format!(
                "the environment variable {name}: a number below {end} expected, found {text:?}"
            ))
            .hint(LAUNCHER_SETS_IT)),
        }
    }

    /// The number of a variable that must be set where `because` is.
    fn needed(&self, name: &str, because: &str, end: usize) -> Result<usize> {
        self.number(name, end)?.ok_or_else(|| {
            Error::usage(format!("{because} is set and {name} is not"))
                .hint(format_args!("start with a launcher that sets both, or unset {because}"))
        })
    }
}

/// An error that all ranks find alike, so that rank 0 alone says it.
fn said_by_first(rank: usize, problem: impl Into<String>) -> Error {
    if rank != 0 {
        cli::mute();
    }
    Error::usage(problem.into())
}

/// The first host of a list of Slurm: `host` of `host,other`, `host5` of `host[5-9,12]`.
fn first_host(list: &str) -> Option<String> {
    let end = list.find([',', '[']).unwrap_or(list.len());
    let (prefix, rest) = list.split_at(end);
    let first = match rest.strip_prefix('[') {
        None => prefix.to_owned(),
        Some(numbers) => {
            let (number, after) = numbers.split_once([',', '-', ']'])?;
            // What follows the brackets belongs to every name.
            let suffix = match numbers.as_bytes().get(number.len()) {
                Some(b']') => after,
                _ => after.split_once(']').map_or("", |(_, suffix)| suffix),
            };
            let suffix = suffix.split(',').next().unwrap_or("");
            format!("{prefix}{number}{suffix}")
        }
    };
    (!first.is_empty()).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(variables: &[(&str, &str)]) -> Result<Option<Place>> {
        let of = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
        Environment(of).place()
    }

    /// Rank, size, local rank, address, port and run.
    fn found(variables: &[(&str, &str)]) -> (usize, usize, usize, String, u16, String) {
        let Place { rank, size, local_rank, address, port, run } = place(variables).unwrap().unwrap();
        (rank, size, local_rank, address, port, run)
    }

    #[test]
    fn every_launcher_says_the_place() {
        assert_eq!(place(&[("RANK", "3"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")]).unwrap(), None);
        let torchrun = [
            ("RANK", "5"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "node-0"),
            ("MASTER_PORT", "29400"),
            ("TORCHELASTIC_RUN_ID", "7"),
            ("SLURM_STEP_NUM_TASKS", "2"),
        ];
        assert_eq!(found(&torchrun), (5, 8, 1, "node-0".into(), 29401, "7".into()));
        let mpi = [
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ];
        assert_eq!(found(&mpi), (1, 2, 1, "127.0.0.1".into(), 29501, String::new()));
        let mvapich = [
            ("MV2_COMM_WORLD_RANK", "0"),
            ("MV2_COMM_WORLD_SIZE", "4"),
            ("MV2_COMM_WORLD_LOCAL_SIZE", "2"),
            ("MASTER_ADDR", "a"),
        ];
        assert_eq!(found(&mvapich), (0, 4, 0, "a".into(), 29501, String::new()));
        let intel =
            [("PMI_RANK", "2"), ("PMI_SIZE", "3"), ("MPI_LOCALRANKID", "2"), ("MPI_LOCALNRANKS", "3")];
        assert_eq!(found(&intel), (2, 3, 2, "127.0.0.1".into(), 29501, String::new()));
        let srun = [
            ("SLURM_PROCID", "3"),
            ("SLURM_STEP_NUM_TASKS", "4"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_NODELIST", "gpu[07-09,12]"),
            ("SLURM_JOB_ID", "991234"),
        ];
        assert_eq!(found(&srun), (3, 4, 1, "gpu07".into(), 16235, "991234".into()));
        let single = [("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1")];
        assert_eq!(place(&single).unwrap(), None, "srun starts one process where nothing is said");
    }

    #[test]
    fn wrong_variables_are_named() {
        let torchrun = [("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", "a")];
        let with = |name: &str, value: &str| -> String {
            let changed: Vec<_> = torchrun
                .into_iter()
                .filter(|(key, _)| *key != name)
                .chain([(name, value)])
                .filter(|(_, value)| !value.is_empty())
                .collect();
            let error = place(&changed).unwrap_err();
            assert!(error.hint_text().is_some(), "{error}");
            error.to_string()
        };
        for (name, value, said) in [
            ("RANK", "2", "RANK: a number below 2 expected, found \"2\""),
            ("RANK", "-1", "found \"-1\""),
            ("RANK", "", "WORLD_SIZE is set and RANK is not"),
            ("WORLD_SIZE", "0", "WORLD_SIZE: at least 1 expected, found 0"),
            ("WORLD_SIZE", "many", "WORLD_SIZE: a number below 65537 expected, found \"many\""),
            ("LOCAL_RANK", "9", "LOCAL_RANK: a number below 2"),
            ("MASTER_ADDR", "", "WORLD_SIZE is set and MASTER_ADDR is not"),
            ("MASTER_PORT", "65535", "MASTER_PORT: a number below 65535"),
        ] {
            assert!(with(name, value).contains(said), "{name}={value}: {}", with(name, value));
        }
        let mpi = [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")];
        let error = place(&mpi).unwrap_err();
        assert!(error.hint_text().unwrap().contains("mpirun -x MASTER_ADDR"), "{error}");
    }

    #[test]
    fn the_first_host_of_a_list_of_slurm() {
        for (list, first) in [
            ("tux", "tux"),
            ("a1,b[2-3]", "a1"),
            ("host[5-9]", "host5"),
            ("n[005,007]-ib", "n005-ib"),
            ("n[3]x,m", "n3x"),
        ] {
            assert_eq!(first_host(list).as_deref(), Some(first), "{list}");
        }
        assert_eq!(first_host(""), None);
        assert_eq!(first_host("a["), None);
    }
}
