//! What the client needs of the machine it runs on.

use std::time::Duration;

use url::Url;

use crate::net;

const CONNECT: Duration = Duration::from_secs(10);
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
