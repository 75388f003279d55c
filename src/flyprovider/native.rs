//! What the client needs of the machine it runs on.

use std::time::Duration;

use url::Url;

use super::client::READ;
use super::{Fly, FlyError, Limit};
use crate::net;
use crate::queue::{RequestClass, backoff};

const CONNECT: Duration = Duration::from_secs(10);
/// How often a read is sent, at most.
const TRIES: u32 = 3;
/// Ten thousand machines with their events fit well.
pub(super) const BODY_MAX: usize = 128 << 20;

pub(super) fn http() -> reqwest::Result<reqwest::Client> {
    net::install_crypto();
    reqwest::Client::builder()
        .user_agent(concat!("tcoder/", env!("CARGO_PKG_VERSION")))
        // Nothing but Fly may see the token.
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT)
        .pool_idle_timeout(Duration::from_secs(30))
        .build()
}

/// Redirects are not followed, so whoever was asked has answered.
pub(super) const fn is_from(_: &reqwest::Response, _: &Url) -> bool {
    true
}

pub(super) fn never_connected(error: &reqwest::Error) -> bool {
    error.is_connect()
}

/// Whether a read is sent again, and when.
#[derive(Clone, Debug, Default)]
pub(super) struct Again {
    limit: Option<Limit>,
}

impl Again {
    /// Waits until it may be; no, where it was sent often enough.
    pub(super) async fn wait(&self, tries: u32, is_list: bool) -> Result<bool, FlyError> {
        if tries >= TRIES {
            return Ok(false);
        }
        let second = Duration::from_secs(1);
        let Some(limit) = &self.limit else {
            tokio::time::sleep(second + backoff::full_jitter(tries, second, 4 * second)).await;
            return Ok(true);
        };
        tokio::time::sleep(backoff::full_jitter(tries, limit.rate().interval, 4 * second)).await;
        let priority = if is_list { RequestClass::List } else { RequestClass::Start };
        match limit.pass(priority, READ).await {
            Ok(Some(_)) => Ok(true),
            Ok(None) => Err(FlyError::Unavailable { message: "no slot for another try".into() }),
            Err(error) => Err(FlyError::Unavailable { message: error.to_string() }),
        }
    }
}

impl Fly {
    /// Every further try of a read takes a slot of the shared limit, instead of waiting by itself.
    #[must_use]
    pub fn retrying_under(mut self, limit: Limit) -> Self {
        self.again = Again { limit: Some(limit) };
        self
    }
}
