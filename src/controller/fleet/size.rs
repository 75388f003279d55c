//! The sizes that the machines of a fleet may have, and what a size means to the plan.

use serde::{Deserialize, Serialize};

use super::price::MicroDollars;

/// The size of a machine. The provider knows which sizes exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineSize {
    /// Whether its CPUs are dedicated; otherwise they are shared with other machines.
    pub dedicated: bool,
    /// The number of CPUs.
    pub cpus: u32,
    /// Its memory in MiB.
    pub memory_mb: u32,
}

/// Two dedicated CPUs: a shared one is throttled after a short burst, and an encode runs much longer.
impl Default for MachineSize {
    fn default() -> Self {
        Self { dedicated: true, cpus: 2, memory_mb: 4096 }
    }
}

/// The sizes of a fleet's machines, all with the same kind of CPUs: one for jobs and for the minimum of machines,
/// and larger ones, if any, for the parts of split videos.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    base: MachineSize,
    /// The largest first. Each has more CPUs than the next one, and than the base.
    larger: Vec<MachineSize>,
}

/// Why sizes do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizesError {
    /// A size is no larger than the one for jobs.
    #[error("{cpus} CPUs are no more than the {base} of the size for jobs; leave that size out")]
    NotLarger {
        /// The number of CPUs.
        cpus: u32,
        /// The number of CPUs of the size for jobs.
        base: u32,
    },
    /// Two sizes have the same number of CPUs.
    #[error("two of the sizes have {cpus} CPUs; leave one of them out")]
    Duplicate {
        /// The number of CPUs.
        cpus: u32,
    },
    /// The CPUs are of another kind than those of the size for jobs, so that prices cannot be compared by them.
    #[error(
        "some CPUs are shared and others are not; choose sizes with the same kind of CPUs as the size for jobs"
    )]
    OtherKind,
}

impl Sizes {
    /// One size for all machines.
    #[must_use]
    pub const fn one(base: MachineSize) -> Self {
        Self { base, larger: Vec::new() }
    }

    /// A size for jobs, and larger ones for the parts of split videos.
    ///
    /// # Errors
    /// Why these sizes do not go together.
    pub fn new(base: MachineSize, mut larger: Vec<MachineSize>) -> Result<Self, SizesError> {
        larger.sort_by_key(|size| std::cmp::Reverse(size.cpus));
        for size in &larger {
            if size.dedicated != base.dedicated {
                return Err(SizesError::OtherKind);
            }
            if size.cpus <= base.cpus {
                return Err(SizesError::NotLarger { cpus: size.cpus, base: base.cpus });
            }
        }
        match larger.windows(2).find(|pair| pair[0].cpus == pair[1].cpus) {
            Some(pair) => Err(SizesError::Duplicate { cpus: pair[0].cpus }),
            None => Ok(Self { base, larger }),
        }
    }

    /// The size for jobs and for the minimum of machines.
    #[must_use]
    pub const fn base(&self) -> MachineSize {
        self.base
    }

    /// Whether machines may have this size.
    #[must_use]
    pub fn contains(&self, size: MachineSize) -> bool {
        self.base == size || self.larger.contains(&size)
    }

    /// The larger sizes, the largest first.
    pub(super) fn larger(&self) -> impl Iterator<Item = MachineSize> {
        self.larger.iter().copied()
    }
}

/// A size as the plan sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub size: MachineSize,
    /// The number of chunks of split videos that a worker on it encodes at once, at least one.
    pub chunks: u32,
    /// The price of one running machine per hour, if known.
    pub price: Option<MicroDollars>,
}

/// What the budget leaves for further machines; `None` means no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Purse(pub Option<MicroDollars>);

impl Purse {
    /// How many machines it can pay for.
    pub(super) const fn affords(self, offer: &Offer) -> u64 {
        match (self.0, offer.price) {
            (Some(MicroDollars(left)), Some(MicroDollars(price))) if price > 0 => left / price,
            _ => u64::MAX,
        }
    }

    /// Pays for `n` machines, as far as the money goes.
    pub(super) fn pay(&mut self, offer: &Offer, n: u64) {
        if let (Some(left), Some(price)) = (&mut self.0, offer.price) {
            left.0 = left.0.saturating_sub(price.times(n).0);
        }
    }

    /// Pays for a machine. Returns whether the money suffices.
    pub(super) fn buy(&mut self, offer: &Offer) -> bool {
        let suffices = self.affords(offer) > 0;
        if suffices {
            self.pay(offer, 1);
        }
        suffices
    }

    /// Pays for a machine instead of another that was paid for. Returns whether the money suffices.
    pub(super) fn exchange(&mut self, paid: &Offer, offer: &Offer) -> bool {
        let mut refunded = Self(self.0.map(|left| left.plus(paid.price.unwrap_or_default())));
        let suffices = refunded.buy(offer);
        if suffices {
            *self = refunded;
        }
        suffices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(cpus: u32) -> MachineSize {
        MachineSize { cpus, memory_mb: 2048 * cpus, ..MachineSize::default() }
    }

    #[test]
    fn sizes_are_ordered_whatever_their_order_was() {
        let sizes = Sizes::new(size(2), vec![size(4), size(16), size(8)]).unwrap();
        assert_eq!(sizes.larger().map(|size| size.cpus).collect::<Vec<_>>(), [16, 8, 4]);
        assert!(sizes.contains(size(2)) && sizes.contains(size(8)) && !sizes.contains(size(6)));
        assert!(!sizes.contains(MachineSize { memory_mb: 8192, ..size(2) }), "other memory is another size");
        assert_eq!(Sizes::new(size(2), Vec::new()), Ok(Sizes::one(size(2))));
    }

    #[test]
    fn sizes_that_are_not_larger_or_equal_or_of_another_kind_are_refused() {
        let shared = MachineSize { dedicated: false, ..size(8) };
        for (larger, error) in [
            (vec![size(8), size(2)], SizesError::NotLarger { cpus: 2, base: 2 }),
            (vec![size(1)], SizesError::NotLarger { cpus: 1, base: 2 }),
            (vec![size(8), size(4), size(8)], SizesError::Duplicate { cpus: 8 }),
            (vec![shared], SizesError::OtherKind),
        ] {
            assert_eq!(Sizes::new(size(2), larger), Err(error));
        }
    }

    #[test]
    fn purse_exchanges_a_machine_only_for_one_that_it_can_pay() {
        let offer = |price| Offer { size: size(2), chunks: 2, price: Some(MicroDollars(price)) };
        let mut purse = Purse(Some(MicroDollars(250)));
        assert_eq!((purse.affords(&offer(100)), purse.affords(&offer(300))), (2, 0));
        purse.pay(&offer(100), 2);
        assert!(!purse.exchange(&offer(100), &offer(151)));
        assert_eq!(purse, Purse(Some(MicroDollars(50))), "nothing is paid for what is too expensive");
        assert!(purse.exchange(&offer(100), &offer(150)));
        assert_eq!(purse, Purse(Some(MicroDollars(0))));
        let unknown = Offer { price: None, ..offer(1) };
        assert_eq!((purse.affords(&unknown), Purse(None).affords(&offer(1))), (u64::MAX, u64::MAX));
    }
}
