//! The parts of the client that differ between a process and the Worker, for a process.

use std::time::Duration;

use url::Url;

use crate::net;

const CONNECT: Duration = Duration::from_secs(10);
/// Maximum size of a response, bytes: enough for ten thousand machines with their events.
pub(super) const BODY_MAX: usize = 128 << 20;

pub(super) fn http() -> reqwest::Result<reqwest::Client> {
    net::install_crypto();
    reqwest::Client::builder()
        .user_agent(concat!("tcoder/", env!("CARGO_PKG_VERSION")))
        // Only Fly may receive the token.
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT)
        .pool_idle_timeout(Duration::from_secs(30))
        .build()
}

/// Whether the response is from the requested URL, which it is, because redirects are not followed.
pub(super) const fn is_from(_: &reqwest::Response, _: &Url) -> bool {
    true
}

pub(super) fn never_connected(error: &reqwest::Error) -> bool {
    error.is_connect()
}
