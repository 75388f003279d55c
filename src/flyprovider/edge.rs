//! The parts of the client that differ between a process and the Worker, for the Worker, which uses `fetch`.

use url::Url;

/// Maximum size of a response, bytes: enough for a thousand machines with their events. An isolate has 128 MB
/// in total.
pub(super) const BODY_MAX: usize = 16 << 20;

pub(super) fn http() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder().user_agent(concat!("tcoder/", env!("CARGO_PKG_VERSION"))).build()
}

/// Whether the response is from the requested URL. `fetch` follows redirects, which only the response shows.
/// It does not send the token to other hosts, as the standard requires (Cloudflare since the compatibility
/// date 2025-09-01), but a POST may have become a GET.
pub(super) fn is_from(answer: &reqwest::Response, asked: &Url) -> bool {
    answer.url() == asked
}

/// Whether the connection was never established, which `fetch` does not tell apart from a broken one.
pub(super) const fn never_connected(_: &reqwest::Error) -> bool {
    false
}
