//! Which keys are written, and what each must hold.

/// The key of a client's put. Padded, so that etcd's order is the order of writing.
pub fn key(client: u32, seq: u64) -> String {
    format!("traffic/{client}/{seq:010}")
}

/// What a key holds: it follows from client and number, so a value that got under another key is
/// seen.
pub fn value(client: u32, seq: u64) -> String {
    let mut word = (u64::from(client) << 40) ^ seq;
    let mut text = String::with_capacity(96);
    for _ in 0..6 {
        // splitmix64: neighbours have nothing in common.
        word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = word;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        text.push_str(&format!("{:016x}", mixed ^ (mixed >> 31)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_ordered_as_they_are_written() {
        assert!(key(0, 9) < key(0, 10));
        assert!(key(0, u64::from(u32::MAX)) < key(1, 1));
    }

    #[test]
    fn no_two_keys_hold_the_same() {
        let mut values: Vec<String> = (0..3).flat_map(|client| (0..1000).map(move |seq| value(client, seq))).collect();
        values.sort();
        values.dedup();
        assert_eq!(values.len(), 3000);
        assert_eq!(value(2, 17), value(2, 17));
    }
}
