//! Drawing without replacement, from the unit's seed alone.

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014):
/// eight bytes of state, good enough to choose demonstrations, the same on every machine.
pub(crate) struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    pub(crate) fn new(seed: u64) -> Self {
        SplitMix64 { state: seed }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound`; `bound` is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        // The first `2^64 mod bound` values would make small results a little more frequent.
        let unfair = bound.wrapping_neg() % bound;
        loop {
            let value = self.next();
            if value >= unfair {
                return value % bound;
            }
        }
    }

    /// `count` different numbers of `0..population`, uniformly and in random order; all of them
    /// where there are no more.
    pub(crate) fn sample(&mut self, population: u64, count: usize) -> Vec<u64> {
        let count = population.min(count as u64);
        // Floyd's algorithm keeps only what is drawn: the population can be every accepted
        // example of a long run.
        let mut drawn = Vec::new();
        for last in population - count..population {
            let pick = self.below(last + 1);
            drawn.push(if drawn.contains(&pick) { last } else { pick });
        }
        self.shuffle(&mut drawn);
        drawn
    }

    /// Fisher and Yates' shuffle.
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for unplaced in (2..=items.len()).rev() {
            let pick = self.below(unplaced as u64) as usize;
            items.swap(unplaced - 1, pick);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_reference_implementation() {
        // Of Vigna's C implementation, with x = 1234567.
        let mut random = SplitMix64::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn a_sample_has_no_number_twice_and_stays_in_the_population() {
        for seed in 0..500 {
            let mut drawn = SplitMix64::new(seed).sample(10, 4);
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn.len(), 4);
            assert!(drawn.iter().all(|&n| n < 10));
        }
    }

    #[test]
    fn every_number_is_as_likely_in_every_place() {
        let mut counts = [[0_u32; 5]; 3];
        for seed in 0..20_000 {
            for (place, n) in SplitMix64::new(seed).sample(5, 3).into_iter().enumerate() {
                counts[place][n as usize] += 1;
            }
        }
        // 4000 expected, standard deviation 57.
        for count in counts.as_flattened() {
            assert!((3750..4250).contains(count), "{counts:?}");
        }
    }

    #[test]
    fn a_small_population_is_drawn_whole() {
        let mut drawn = SplitMix64::new(9).sample(3, 8);
        drawn.sort_unstable();
        assert_eq!(drawn, [0, 1, 2]);
        assert!(SplitMix64::new(9).sample(0, 8).is_empty());
    }
}
