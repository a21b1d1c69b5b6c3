//! Deals the examples of a step, or other work, to ranks by weight, so that no rank waits for the one with the
//! long examples.

/// The indices of the items of each of `ranks` ranks, in ascending order. The heaviest item that is left goes
/// to the rank that has least so far ("longest processing time first", Graham 1969).
pub fn deal(weights: &[usize], ranks: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&item| std::cmp::Reverse(weights[item]));
    let mut dealt = vec![Vec::new(); ranks.max(1)];
    let mut loads = vec![0usize; ranks.max(1)];
    for item in order {
        let least = (0..loads.len()).min_by_key(|&rank| loads[rank]).unwrap_or(0);
        loads[least] += weights[item];
        dealt[least].push(item);
    }
    dealt.iter_mut().for_each(|items| items.sort_unstable());
    dealt
}

/// As [`deal`], but each rank gets neighbours: an item goes to the rank in whose equal share of the whole weight
/// its middle lies.
pub fn deal_neighbours(weights: &[usize], ranks: usize) -> Vec<Vec<usize>> {
    let mut dealt = vec![Vec::new(); ranks.max(1)];
    let all: usize = weights.iter().sum();
    let mut before = 0;
    for (item, &weight) in weights.iter().enumerate() {
        let middle = 2 * before + weight;
        let rank = (middle * dealt.len()).checked_div(2 * all).unwrap_or(0).min(dealt.len() - 1);
        dealt[rank].push(item);
        before += weight;
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(weights: &[usize], dealt: &[Vec<usize>]) -> Vec<usize> {
        dealt.iter().map(|items| items.iter().map(|&item| weights[item]).sum()).collect()
    }

    #[test]
    fn every_item_is_dealt_once_and_the_loads_are_even() {
        let weights: Vec<usize> = (0..64).map(|i| 20 + i * 7919 % 271).collect();
        let (all, longest) = (weights.iter().sum::<usize>(), 290);
        for ranks in [1, 2, 3, 4, 7, 100] {
            for (name, dealt) in
                [("deal", deal(&weights, ranks)), ("neighbours", deal_neighbours(&weights, ranks))]
            {
                assert_eq!(dealt.len(), ranks);
                let mut items = dealt.concat();
                items.sort_unstable();
                assert_eq!(items, (0..64).collect::<Vec<_>>(), "{name} to {ranks}");
                let most = loads(&weights, &dealt).into_iter().max().unwrap();
                assert!(most <= all / ranks + longest, "{name} to {ranks}: {most} of {all}");
            }
        }
        let even = loads(&weights, &deal(&weights, 4));
        assert!(even.iter().max().unwrap() - even.iter().min().unwrap() < 30, "{even:?}");
    }

    #[test]
    fn neighbours_stay_together_and_one_rank_has_all() {
        let dealt = deal_neighbours(&[5, 1, 1, 1, 5, 3], 3);
        assert_eq!(dealt, [vec![0], vec![1, 2, 3, 4], vec![5]]);
        assert_eq!(deal(&[3, 9, 4], 1), [vec![0, 1, 2]]);
        assert_eq!(deal_neighbours(&[3, 9, 4], 1), [vec![0, 1, 2]]);
        assert_eq!(deal(&[], 2), [vec![], Vec::<usize>::new()]);
        assert_eq!(deal_neighbours(&[0, 0], 2), [vec![0, 1], vec![]]);
    }
}
