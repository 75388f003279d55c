//! Names and addresses that Fly makes up.

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// The address of a machine in its organisation's private network; made up from its id.
pub(crate) fn private_ip(id: &str) -> String {
    let hash = Sha256::digest(id.as_bytes());
    let part = |i: usize| u16::from_be_bytes([hash[i], hash[i + 1]]);
    format!("fdaa:0:{:x}:a7b:{:x}:{:x}:{:x}:2", part(0), part(2), part(4), part(6))
}

/// A ULID: what Fly names versions and events by. A later one is greater.
pub(crate) fn ulid() -> String {
    const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    // The bits of a UUID of version 7 begin with the time, too.
    let bits = Uuid::now_v7().as_u128();
    let digit = |place: u32| usize::try_from(bits >> (5 * place) & 31).unwrap_or(0);
    (0..26).rev().map(|place| char::from(ALPHABET[digit(place)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ulid_has_26_characters_and_increases() {
        let ids: Vec<String> = (0..100).map(|_| ulid()).collect();
        assert!(ids.iter().all(|id| id.len() == 26));
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    }
}
