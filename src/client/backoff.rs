//! Pauses between tries.

use std::time::Duration;

/// Pauses that double from `first` to `most`, each shortened at random by up to a half, so that many who failed at the
/// same moment don't come back at the same moment.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    tries: u32,
}

impl Backoff {
    pub(super) const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, tries: 0 }
    }

    /// How long to wait after one more failure.
    pub(super) fn pause(&mut self) -> Duration {
        let whole = self.first.saturating_mul(1 << self.tries.min(16)).min(self.most);
        self.tries = self.tries.saturating_add(1);
        whole.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Starts anew after a success.
    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }

    /// How many failures in a row there were.
    pub(super) fn failures(&self) -> u32 {
        self.tries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pauses_double_up_to_the_most(first in 1u64..1_000, factor in 1u64..1_000, tries in 0u32..40) {
            let (first, most) = (Duration::from_millis(first), Duration::from_millis(first * factor));
            let mut backoff = Backoff::new(first, most);
            for _ in 0..tries {
                backoff.pause();
            }
            let whole = first.saturating_mul(1 << tries.min(16)).min(most);
            let pause = backoff.pause();
            prop_assert!(whole / 2 <= pause && pause <= whole, "{pause:?} of {whole:?}");
            backoff.reset();
            prop_assert!(backoff.pause() <= first);
        }
    }
}
