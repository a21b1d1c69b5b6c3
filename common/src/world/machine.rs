//! Which ranks of a run are on the same machine.

/// The ranks that are on the machine of this rank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Machine {
    /// The lowest rank of the machine.
    pub(super) first: usize,
    /// The number of this rank among those of the machine, from 0.
    pub(super) index: usize,
    /// The number of ranks of the machine.
    pub(super) ranks: usize,
    /// The number of ranks of the machine that has the most.
    pub(super) most_ranks: usize,
    /// Why the ranks of a machine cannot share memory; `None` where those of every machine can.
    pub(super) problem: Option<String>,
}

impl Machine {
    /// Returns the machine of `rank`, where `machines` has the name of the machine of each rank.
    pub(super) fn of(machines: &[&str], rank: usize) -> Self {
        let on = |machine: &str| -> Vec<usize> {
            (0..machines.len()).filter(|other| machines[*other] == machine).collect()
        };
        let own = on(machines[rank]);
        Self {
            first: own[0],
            index: own.iter().position(|other| *other == rank).unwrap_or(0),
            ranks: own.len(),
            most_ranks: machines.iter().map(|machine| on(machine).len()).max().unwrap_or(1),
            problem: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_one_machine_know_each_other() {
        let of = |machines: &[&str], rank| {
            let Machine { first, index, ranks, most_ranks, problem } = Machine::of(machines, rank);
            assert_eq!(problem, None);
            (first, (index, ranks), most_ranks)
        };
        let machines = ["b", "a", "a", "b", "a"];
        let found = [0, 1, 2, 3, 4].map(|rank| of(&machines, rank));
        assert_eq!(found[..2], [(0, (0, 2), 3), (1, (0, 3), 3)]);
        assert_eq!(found[2..], [(1, (1, 3), 3), (0, (1, 2), 3), (1, (2, 3), 3)]);
        assert_eq!(of(&["a"], 0), (0, (0, 1), 1));
    }
}
