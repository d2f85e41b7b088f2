//! Keys drawn from a Zipf distribution: what a few keys that many ask for look like.

/// The finalizer of MurmurHash3 (Austin Appleby, public domain): neighbours become strangers.
pub fn mix(mut seed: u64) -> u64 {
    seed ^= seed >> 33;
    seed = seed.wrapping_mul(0xff51_afd7_ed55_8ccd);
    seed ^= seed >> 33;
    seed = seed.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    seed ^ seed >> 33
}

/// Keys from 0 on; each has a rank, and the one of rank *r* comes as often as 1 / *r* to the power of the exponent. Neighbouring ranks are not
/// neighbouring keys, so that popular keys are not neighbours in the log.
pub struct Zipf {
    /// Of the frequencies up to each rank.
    sums: Vec<f64>,
    keys_by_rank: Vec<u64>,
    seed: u64,
}

impl Zipf {
    pub fn new(keys: usize, exponent: f64, seed: u64) -> Self {
        let mut sum = 0.0;
        let sums = (1..=keys)
            .map(|rank| {
                sum += 1.0 / (rank as f64).powf(exponent);
                sum
            })
            .collect();
        let mut keys_by_rank: Vec<u64> = (0..keys as u64).collect();
        keys_by_rank.sort_unstable_by_key(|&key| mix(key + 1));
        Self { sums, keys_by_rank, seed }
    }

    pub fn next_key(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let last = self.sums.len() - 1;
        let point = mix(self.seed) as f64 / u64::MAX as f64 * self.sums[last];
        self.keys_by_rank[self.sums.partition_point(|&sum| sum < point).min(last)]
    }
}
