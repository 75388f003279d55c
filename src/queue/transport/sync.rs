//! The sync token of Upstash's read regions: <https://upstash.com/docs/redis/howto/readyourwrites>.
//!
//! Each answer carries a token that stands for the state it was made from. A request that brings a token is
//! answered from that state or a later one, also by a replica that lags behind the primary.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use reqwest::header::HeaderValue;

/// The header, of requests and answers.
pub(super) const HEADER: &str = "upstash-sync-token";
/// Longest token that is kept, bytes.
const LONGEST: usize = 4096;

/// The token of one client, or of several that shall read each other's writes. Clones share it.
///
/// Tokens are opaque, so of two that were handed out at once nobody can tell which is the later one. The answer
/// to a write counts in any case. The answer to a read counts only if the token is still the one that the read
/// was sent with, since it may come from a replica that a write of the meantime has not reached.
#[derive(Clone, Debug)]
pub struct SyncToken(Arc<Mutex<Held>>);

#[derive(Debug)]
struct Held {
    token: HeaderValue,
    /// How often it was replaced.
    version: u64,
}

/// Which token a request was sent with.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentWith(u64);

impl Default for SyncToken {
    fn default() -> Self {
        // As the official client begins.
        let token = HeaderValue::from_static("");
        Self(Arc::new(Mutex::new(Held { token, version: 0 })))
    }
}

impl SyncToken {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a request that is about to be sent.
    pub(super) fn current(&self) -> (HeaderValue, SentWith) {
        let held = self.held();
        (held.token.clone(), SentWith(held.version))
    }

    /// Takes the token of an answer in.
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
    fn each_answer_hands_the_next_request_its_token() {
        let sync = SyncToken::default();
        let (first, sent) = sync.current();
        assert_eq!(first, "");
        sync.answered(sent, true, Some(&token("a")));
        let (second, sent) = sync.clone().current();
        assert_eq!(second, "a");
        sync.answered(sent, false, Some(&token("b")));
        assert_eq!(sync.current().0, "b");
        // A proxy lost it, or it is none.
        let (_, sent) = sync.current();
        sync.answered(sent, false, None);
        sync.answered(sent, false, Some(&token(&"c".repeat(LONGEST + 1))));
        assert_eq!(sync.current().0, "b");
    }

    #[test]
    fn the_answer_to_a_read_does_not_replace_the_token_of_a_write_it_overlapped() {
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
