//! Sizes as users write them: "4096", "512MiB", "1.5GB".

use crate::error::{Error, Result};

const SIZE_FORMS: &str = "write a number of bytes (\"4096\") or a number with B, kB, MB, GB, TB, KiB, MiB, GiB or TiB (\"512MiB\", \"1.5GB\")";

/// Bytes as a user would write them; [`parse_size`] reads them back exactly.
pub fn size_text(bytes: u64) -> String {
    for (unit, name) in [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= unit && bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    format!("{bytes}B")
}

/// Reads "4096", "512MiB", "1.5GB". Exact decimal arithmetic; a fraction of a byte is dropped.
pub fn parse_size(text: &str) -> Result<u64> {
    let invalid = || Error::invalid_option(format!("the size {text:?} is not understood: {SIZE_FORMS}"));
    let trimmed = text.trim();
    let number_len = trimmed
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(number_len);
    let unit = unit.trim_start();
    let (whole, fraction) = match number.split_once('.') {
        // "1.5" bytes are no size.
        Some(_) if unit.is_empty() => return Err(invalid()),
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return Err(invalid()),
        None => (number, ""),
    };
    let all_digits = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return Err(invalid());
    }
    let multiplier: u128 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(invalid()),
    };
    let too_large = || Error::invalid_option(format!("the size {text:?} is larger than any store can be"));
    let whole_bytes = whole
        .parse::<u64>()
        .ok()
        .and_then(|whole| u128::from(whole).checked_mul(multiplier))
        .ok_or_else(too_large)?;
    // Further digits are below one byte for every unit.
    let fraction = &fraction[..fraction.len().min(15)];
    let fraction_bytes = if fraction.is_empty() {
        0
    } else {
        let digits: u128 = fraction.parse().map_err(|_| invalid())?;
        digits * multiplier / 10_u128.pow(fraction.len() as u32)
    };
    u64::try_from(whole_bytes + fraction_bytes).map_err(|_| too_large())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("4096", 4096),
            ("0", 0),
            ("512MiB", 512 << 20),
            ("20GiB", 20 << 30),
            (" 20 gib ", 20 << 30),
            ("1.5GB", 1_500_000_000),
            ("0.3KiB", 307),
            ("1.5KiB", 1536),
            ("10 kB", 10_000),
            ("7B", 7),
            ("18446744073709551615", u64::MAX),
            ("1.000000000000000000000001TiB", 1 << 40),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text:?}");
        }
        for text in [
            "12 parsecs",
            "",
            "MiB",
            "-1",
            "1e6",
            "1.5",
            ".5GB",
            "1.GB",
            "1.2.3GB",
            "1 000",
            "+1",
            "１MB",
            "18446744073709551616",
            "99999999999TiB",
            "1MiBMiB",
        ] {
            let error = parse_size(text).unwrap_err();
            assert_eq!(error.name(), "InvalidOption", "{text:?}");
            assert!(error.to_string().contains(text), "{error}");
        }
        assert!(parse_size("12 parsecs").unwrap_err().to_string().contains("512MiB"));
    }

    #[test]
    fn size_text_reads_back() {
        for bytes in [0, 1, 1023, 1024, 1536, 1 << 20, 3 << 30, 5 << 40, u64::MAX] {
            assert_eq!(parse_size(&size_text(bytes)).unwrap(), bytes);
        }
    }
}
