//! Natural numbers of any length: just what exact conversion between decimal text and binary numbers needs.
//!
//! Invariant: the last limb is not zero, so that equal numbers have equal limbs. Lengths are bounded by the callers, who know how
//! long a text and how large an exponent can be.
//!
//! Rejected: a crate for big integers. A few short functions are less to carry than a dependency of that size.

use std::cmp::Ordering;

/// Decimal digits that one limb holds, whatever they are.
const LIMB_DIGITS: usize = 19;
const TEN_TO_LIMB_DIGITS: u64 = 10_u64.pow(LIMB_DIGITS as u32);

/// A natural number or zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Natural {
    /// Least significant first.
    limbs: Vec<u64>,
}

impl Natural {
    /// The number itself.
    pub fn new(number: u128) -> Self {
        let mut natural = Self { limbs: vec![number as u64, (number >> 64) as u64] };
        natural.trim();
        natural
    }

    /// From decimal digits, which the caller has checked to be such.
    pub fn from_digits(digits: impl Iterator<Item = u8>) -> Self {
        let mut natural = Self::new(0);
        let (mut pending, mut pending_factor) = (0_u64, 1_u64);
        for digit in digits {
            pending = pending * 10 + u64::from(digit - b'0');
            pending_factor *= 10;
            if pending_factor == TEN_TO_LIMB_DIGITS {
                natural.multiply_add(pending_factor, pending);
                (pending, pending_factor) = (0, 1);
            }
        }
        natural.multiply_add(pending_factor, pending);
        natural
    }

    fn trim(&mut self) {
        while self.limbs.last() == Some(&0) {
            self.limbs.pop();
        }
    }

    /// How many bits it takes; 0 for zero.
    pub fn bits(&self) -> u64 {
        self.limbs.last().map_or(0, |top| self.limbs.len() as u64 * 64 - u64::from(top.leading_zeros()))
    }

    /// `self * factor + addend`, in place.
    pub fn multiply_add(&mut self, factor: u64, addend: u64) {
        let mut carry = u128::from(addend);
        for limb in &mut self.limbs {
            carry += u128::from(*limb) * u128::from(factor);
            *limb = carry as u64;
            carry >>= 64;
        }
        self.limbs.push(carry as u64);
        self.trim();
    }

    /// `self * 10^exponent`, in place.
    pub fn scale_by_ten(&mut self, exponent: u32) {
        let limb_digits = LIMB_DIGITS as u32;
        for _ in 0..exponent / limb_digits {
            self.multiply_add(TEN_TO_LIMB_DIGITS, 0);
        }
        self.multiply_add(10_u64.pow(exponent % limb_digits), 0);
    }

    /// `self << bits`, in place.
    pub fn shift_left(&mut self, bits: u64) {
        let shift = bits % 64;
        if shift > 0 {
            let mut carry = 0;
            for limb in &mut self.limbs {
                (*limb, carry) = (*limb << shift | carry, *limb >> (64 - shift));
            }
            self.limbs.push(carry);
            self.trim();
        }
        if !self.limbs.is_empty() {
            self.limbs.splice(0..0, std::iter::repeat_n(0, (bits / 64) as usize));
        }
    }

    /// `self - other`, in place; `other` is not larger.
    pub fn subtract(&mut self, other: &Self) {
        let mut borrow = false;
        for (index, limb) in self.limbs.iter_mut().enumerate() {
            let (difference, below) = limb.overflowing_sub(other.limbs.get(index).copied().unwrap_or(0));
            let (difference, below_borrow) = difference.overflowing_sub(u64::from(borrow));
            *limb = difference;
            borrow = below || below_borrow;
        }
        assert!(!borrow, "a natural number was subtracted from a smaller one");
        self.trim();
    }

    /// Divides in place; the remainder.
    fn divide(&mut self, divisor: u64) -> u64 {
        let mut remainder = 0_u128;
        for limb in self.limbs.iter_mut().rev() {
            remainder = remainder << 64 | u128::from(*limb);
            *limb = (remainder / u128::from(divisor)) as u64;
            remainder %= u128::from(divisor);
        }
        self.trim();
        remainder as u64
    }

    /// Its decimal digits; "0" for zero.
    pub fn to_decimal(&self) -> String {
        let mut rest = self.clone();
        let mut groups = Vec::new();
        while rest.limbs.len() > 1 {
            groups.push(rest.divide(TEN_TO_LIMB_DIGITS));
        }
        let mut text = rest.limbs.first().copied().unwrap_or(0).to_string();
        for group in groups.iter().rev() {
            text.push_str(&format!("{group:0LIMB_DIGITS$}"));
        }
        text
    }
}

impl Ord for Natural {
    fn cmp(&self, other: &Self) -> Ordering {
        let lengths = self.limbs.len().cmp(&other.limbs.len());
        lengths.then_with(|| self.limbs.iter().rev().cmp(other.limbs.iter().rev()))
    }
}

impl PartialOrd for Natural {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn as_u128(a in 0..u128::MAX, b in 0..u128::MAX, factor: u64, addend: u64, shift in 0..64_u64) {
            let (small, large) = (a.min(b), a.max(b));
            prop_assert_eq!(Natural::new(a).cmp(&Natural::new(b)), a.cmp(&b));
            prop_assert_eq!(Natural::new(a).bits(), u64::from(128 - a.leading_zeros()));
            prop_assert_eq!(Natural::new(a).to_decimal(), a.to_string());
            prop_assert_eq!(Natural::from_digits(a.to_string().bytes()), Natural::new(a));
            let mut difference = Natural::new(large);
            difference.subtract(&Natural::new(small));
            prop_assert_eq!(difference, Natural::new(large - small));
            let mut shifted = Natural::new(a >> 64);
            shifted.shift_left(shift);
            prop_assert_eq!(shifted, Natural::new((a >> 64) << shift));
            let mut product = Natural::new(a >> 64);
            product.multiply_add(factor, addend);
            prop_assert_eq!(product, Natural::new((a >> 64) * u128::from(factor) + u128::from(addend)));
        }

        #[test]
        fn digits_of_any_length(digits in "[1-9][0-9]{0,400}", zeros in 0..100_u32) {
            let mut natural = Natural::from_digits(digits.bytes());
            prop_assert_eq!(natural.to_decimal(), digits.clone());
            natural.scale_by_ten(zeros);
            prop_assert_eq!(natural.to_decimal(), format!("{digits}{}", "0".repeat(zeros as usize)));
        }
    }

    #[test]
    fn zero_is_one_number() {
        let mut zero = Natural::new(5);
        zero.subtract(&Natural::new(5));
        zero.shift_left(640);
        zero.scale_by_ten(40);
        assert_eq!(zero, Natural::from_digits(b"000".iter().copied()));
        assert_eq!((zero.bits(), zero.to_decimal().as_str()), (0, "0"));
    }

    #[test]
    fn groups_of_zeros_are_written() {
        let mut number = Natural::new(1);
        number.shift_left(64);
        assert_eq!(number.to_decimal(), "18446744073709551616");
        let mut number = Natural::new(1);
        number.scale_by_ten(19);
        assert_eq!(number.to_decimal(), format!("1{}", "0".repeat(19)));
        number.scale_by_ten(19 * 3);
        assert_eq!(number.to_decimal(), format!("1{}", "0".repeat(19 * 4)));
    }
}
