//! What the client needs of the edge, where `fetch` makes the calls.

use url::Url;

/// An isolate has 128 MB for everything. A thousand machines with their events fit.
pub(super) const BODY_MAX: usize = 16 << 20;

pub(super) fn http() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().user_agent(concat!("tcoder/", env!("CARGO_PKG_VERSION"))).build()
}

/// Whether it is the answer of whom we asked. Here redirects are followed, and only the answer shows it:
/// `fetch` keeps the token from other hosts, as it must (Cloudflare's since its compatibility date of
/// 2025-09-01), but a POST may have become a GET on the way.
pub(super) fn is_from(answer: &reqwest::Response, asked: &Url) -> bool {
    answer.url() == asked
}

/// `fetch` does not tell a connection that never stood from one that broke.
pub(super) const fn never_connected(_: &reqwest::Error) -> bool {
    false
}
