//! Quorum arithmetic, as etcd's own membership checks do it.

/// The votes a cluster of this many voters needs.
#[must_use]
pub fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    #[test]
    fn as_etcds_faq_has_it() {
        let table: Vec<usize> = (1..=7).map(super::quorum).collect();
        assert_eq!(table, [1, 2, 2, 3, 3, 4, 4]);
    }
}
