//! The count that registers speak for: Otmar Ertl, "New cardinality estimation algorithms for HyperLogLog sketches", arXiv:1702.01284,
//! algorithm 6, with the series tau and sigma of its equations. One formula for small and large counts, and no tables of bias.
//!
//! In doubles and in Redis's order of operations, so that both round to the same whole number.

use super::{Histogram, RANK_BITS, REGISTERS};

/// 1 / (2 ln 2).
const ALPHA_INFINITY: f64 = 0.721_347_520_444_481_7;

/// Estimates from how many registers hold each value.
pub fn elements(histogram: &Histogram) -> u64 {
    let registers = REGISTERS as f64;
    let count_of = |value: u32| f64::from(histogram[value as usize]);
    let mut sum = registers * tau((registers - count_of(RANK_BITS + 1)) / registers);
    for value in (1..=RANK_BITS).rev() {
        sum += count_of(value);
        sum *= 0.5;
    }
    sum += registers * sigma(count_of(0) / registers);
    // Infinite where all registers hold more than any hash says, which somebody must have written there. C on x86-64 rounds infinity to the
    // number with only the highest bit set; as a cached count, that is out of date at once.
    let estimate = ALPHA_INFINITY * registers * registers / sum;
    if estimate.is_finite() { estimate.round() as u64 } else { 1 << 63 }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let previous = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        // It falls until the terms are below its precision, after some fifty of them.
        if z == previous {
            return z / 3.0;
        }
    }
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let previous = z;
        z += x * y;
        y += y;
        // The squares vanish faster than their factors double.
        if z == previous {
            return z;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::NO_REGISTERS;
    use super::*;

    #[test]
    fn nothing_and_everything() {
        let mut histogram = NO_REGISTERS;
        histogram[0] = REGISTERS as u32;
        assert_eq!(elements(&histogram), 0);
        let mut histogram = NO_REGISTERS;
        histogram[0] = REGISTERS as u32 - 1;
        histogram[1] = 1;
        assert_eq!(elements(&histogram), 1);
        // What no hash sets counts for nothing.
        let mut histogram = NO_REGISTERS;
        histogram[63] = REGISTERS as u32;
        assert_eq!(elements(&histogram), 1 << 63);
    }

    #[test]
    fn alpha_is_what_the_paper_says() {
        assert_eq!(ALPHA_INFINITY, 0.5 / std::f64::consts::LN_2);
    }
}
