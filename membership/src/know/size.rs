//! Sizes in sentences and tables.

/// A size as etcdctl writes it: decimal units.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB"];
    let mut unit = "B";
    #[allow(clippy::cast_precision_loss, reason = "two digits of it are shown")]
    let mut size = bytes as f64;
    for next in units {
        if size < 999.5 {
            break;
        }
        size /= 1000.0;
        unit = next;
    }
    if unit == "B" || size >= 9.95 { format!("{size:.0} {unit}") } else { format!("{size:.1} {unit}") }
}

/// The bytes of a Kubernetes quantity (`2Gi`, `1.5G`, `1e9`); `None`: it is none.
#[must_use]
pub fn quantity(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let (number, suffix) = text.split_at(digits.len());
    let factor = match suffix {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1_024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        "Ei" => 1_152_921_504_606_846_976.0,
        _ => return None,
    };
    let bytes = number.parse::<f64>().ok()? * factor;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked; a fraction of a byte is none")]
    (bytes.is_finite() && bytes >= 0.0).then_some(bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_kubernetes() {
        let bytes = ["2Gi", "1.5G", "1e9", "128974848", "123Mi", "1000m"].map(|text| quantity(text).unwrap());
        assert_eq!(bytes, [2_147_483_648, 1_500_000_000, 1_000_000_000, 128_974_848, 128_974_848, 1]);
        for none in ["", "Gi", "2Xi", "-1", "2 Gi"] {
            assert_eq!(quantity(none), None, "{none}");
        }
    }

    #[test]
    fn sizes_are_etcdctls() {
        let sizes = [0, 999, 1000, 20_480, 2_097_152, 9_960_000, 8_589_934_592].map(size);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "20 kB", "2.1 MB", "10 MB", "8.6 GB"]);
    }
}
