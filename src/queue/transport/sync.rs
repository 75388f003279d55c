//! The sync token of Upstash's read regions: <https://upstash.com/docs/redis/howto/readyourwrites>.
//!
//! Each response contains a token that identifies the state it was made from. A request with a token is answered from
//! that state or a later one, even by a replica that lags behind the primary.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::header::HeaderValue;

/// The header, in requests and responses.
pub(super) const HEADER: &str = "upstash-sync-token";
/// Maximum length of a token, bytes. Longer ones are ignored.
const LONGEST: usize = 4096;

/// The token of one client, or of several clients that read each other's writes. Clones share it.
///
/// Tokens are opaque, so nobody can tell which of two concurrent tokens is the later one. The token in the response
/// to a write always replaces the current one. The token in the response to a read replaces it only if it is still
/// the one that the read was sent with, because the response may come from a replica that a write in the meantime has
/// not reached.
#[derive(Clone, Debug)]
pub struct SyncToken(Arc<Mutex<Held>>);

#[derive(Debug)]
struct Held {
    token: HeaderValue,
    /// How often the token was replaced.
    version: u64,
}

/// Identifies the token that a request was sent with.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentWith(u64);

impl Default for SyncToken {
    fn default() -> Self {
        // The official client starts with an empty token, too.
        let token = HeaderValue::from_static("");
        Self(Arc::new(Mutex::new(Held { token, version: 0 })))
    }
}

impl SyncToken {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token for a request that is about to be sent.
    pub(super) fn current(&self) -> (HeaderValue, SentWith) {
        let held = self.held();
        (held.token.clone(), SentWith(held.version))
    }

    /// Processes the token of a response.
    pub(super) fn answered(&self, sent: SentWith, is_read: bool, token: Option<&HeaderValue>) {
        let Some(token) = token.filter(|token| token.len() <= LONGEST) else { return };
        let mut held = self.held();
        if !is_read || held.version == sent.0 {
            held.token = token.clone();
            held.version += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> HeaderValue {
        text.parse().unwrap()
    }

    #[test]
    fn sync_token_of_a_response_is_used_by_the_next_request() {
        let sync = SyncToken::default();
        let (first, sent) = sync.current();
        assert_eq!(first, "");
        sync.answered(sent, true, Some(&token("a")));
        let (second, sent) = sync.clone().current();
        assert_eq!(second, "a");
        sync.answered(sent, false, Some(&token("b")));
        assert_eq!(sync.current().0, "b");
        // A proxy removed the token, or it is invalid.
        let (_, sent) = sync.current();
        sync.answered(sent, false, None);
        sync.answered(sent, false, Some(&token(&"c".repeat(LONGEST + 1))));
        assert_eq!(sync.current().0, "b");
    }

    #[test]
    fn sync_token_of_a_write_survives_an_overlapping_read() {
        for read_ends_first in [true, false] {
            let sync = SyncToken::default();
            let ((_, read), (_, write)) = (sync.current(), sync.current());
            if read_ends_first {
                sync.answered(read, true, Some(&token("before")));
            }
            sync.answered(write, false, Some(&token("after")));
            if !read_ends_first {
                sync.answered(read, true, Some(&token("before")));
            }
            assert_eq!(sync.current().0, "after", "{read_ends_first}");
        }
    }
}
