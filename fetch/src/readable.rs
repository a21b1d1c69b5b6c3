//! How much there is to fetch, for people.

use common::cli::Size;

/// What a run has to fetch, and what an earlier one has left for it.
pub fn how_much(total: u64, there: u64) -> String {
    match there {
        0 => Size(total).to_string(),
        _ => format!("{}; {} are there, {} to fetch", Size(total), Size(there), Size(total - there)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_left() {
        assert_eq!(how_much(3 << 20, 0), "3.00 MiB");
        assert_eq!(how_much(3 << 20, 1 << 20), "3.00 MiB; 1.00 MiB are there, 2.00 MiB to fetch");
    }
}
