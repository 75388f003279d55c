//! A semaphore with a number of permits for each key, so that one client cannot take what belongs to all.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Gives out permits, at most `limit` at once for each key. Clones share them.
#[derive(Debug)]
pub(crate) struct KeyedSemaphore<K> {
    limit: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K> Clone for KeyedSemaphore<K> {
    fn clone(&self) -> Self {
        Self { limit: self.limit, taken: Arc::clone(&self.taken) }
    }
}

/// A permit. It is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct KeyedPermit<K: Eq + Hash> {
    of: KeyedSemaphore<K>,
    key: K,
}

impl<K: Eq + Hash + Clone> KeyedSemaphore<K> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, taken: Arc::default() }
    }

    /// Takes a permit, if one is left for this key.
    pub(crate) fn try_acquire(&self, key: K) -> Option<KeyedPermit<K>> {
        let mut taken = self.lock();
        let number = taken.get(&key).copied().unwrap_or_default();
        if number >= self.limit {
            return None;
        }
        taken.insert(key.clone(), number + 1);
        drop(taken);
        Some(KeyedPermit { of: self.clone(), key })
    }

    /// The number of permits that are taken, of all keys together.
    pub(crate) fn taken(&self) -> usize {
        self.lock().values().sum()
    }
}

impl<K> KeyedSemaphore<K> {
    /// The numbers are consistent whenever the lock is free, so a panic elsewhere does not corrupt them.
    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for KeyedPermit<K> {
    fn drop(&mut self) {
        let mut taken = self.of.lock();
        if let Some(number) = taken.get_mut(&self.key) {
            *number -= 1;
            if *number == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_limited_by_key_and_given_back() {
        let semaphore = KeyedSemaphore::new(2);
        let first = semaphore.try_acquire("a").unwrap();
        let second = semaphore.clone().try_acquire("a").unwrap();
        assert!(semaphore.try_acquire("a").is_none());
        let other = semaphore.try_acquire("b").unwrap();
        assert_eq!(semaphore.taken(), 3);
        drop(second);
        let third = semaphore.try_acquire("a").unwrap();
        drop((first, third, other));
        assert_eq!(semaphore.taken(), 0);
        assert!(semaphore.lock().is_empty());
    }
}
