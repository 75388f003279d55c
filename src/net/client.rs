//! The guarded client of a process, which resolves names and follows redirects itself.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Method, RequestBuilder, Response, redirect};
use tracing::Instrument as _;
use url::Url;

use super::span::{self, RequestSpan, Shown};
use super::{EgressPolicy, MAX_REDIRECTS, UrlRefused, check_url, is_public};

/// Time limits of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Maximum time to connect.
    pub connect: Duration,
    /// Maximum time between two pieces of a response.
    pub read: Duration,
    /// Maximum total time; `None` leaves it to the caller.
    pub total: Option<Duration>,
}

/// How to react to a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirects {
    /// Follow it, if the guard permits its target.
    Follow,
    /// Return the redirect itself: the message is meant for nobody else.
    Stay,
}

/// Installs *ring* as the TLS provider of the process. Call it first; further calls do nothing.
pub fn install_crypto() {
    // An error means that a provider is installed already, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// An HTTP client that calls only the addresses which its guard permits. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    guard: EgressPolicy,
}

/// Creates a client with this guard.
///
/// # Errors
/// If the machine's certificates cannot be loaded.
pub fn client(
    guard: EgressPolicy,
    timeouts: Timeouts,
    redirects: Redirects,
) -> Result<Client, reqwest::Error> {
    Ok(Client { http: builder(guard, timeouts, redirects).build()?, guard })
}

fn builder(guard: EgressPolicy, timeouts: Timeouts, redirects: Redirects) -> reqwest::ClientBuilder {
    install_crypto();
    let policy = match redirects {
        Redirects::Stay => redirect::Policy::none(),
        Redirects::Follow => redirect::Policy::custom(move |attempt| {
            match judge_redirect(guard, attempt.previous(), attempt.url()) {
                Ok(()) => attempt.follow(),
                Err(refused) => attempt.error(refused),
            }
        }),
    };
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("tcoder/", env!("CARGO_PKG_VERSION")))
        // A proxy would connect on our behalf and bypass the guard.
        .no_proxy()
        .referer(false)
        .connect_timeout(timeouts.connect)
        .read_timeout(timeouts.read)
        .pool_idle_timeout(Duration::from_secs(30))
        .pool_max_idle_per_host(4)
        .redirect(policy);
    if let Some(total) = timeouts.total {
        builder = builder.timeout(total);
    }
    if guard == EgressPolicy::PublicOnly {
        builder = builder.dns_resolver(PublicResolver);
    }
    builder
}

impl Client {
    /// Builds a request to `url`.
    ///
    /// # Errors
    /// If the guard refuses the address itself. If it refuses the address later, because of the IP address of its
    /// name or because of a redirect, [`Self::send`] fails; [`UrlRefused::find`] finds the reason.
    pub fn request(&self, method: Method, url: &Url) -> Result<RequestBuilder, UrlRefused> {
        check_url(self.guard, url)?;
        Ok(self.http.request(method, url.clone()))
    }

    /// Sends a request in a span of its own, which ends when the headers of the response arrive.
    ///
    /// # Errors
    /// If the request cannot be built, or if there is no response.
    pub async fn send(&self, request: RequestBuilder) -> Result<Response, reqwest::Error> {
        let request = request.build()?;
        let span = RequestSpan::begin(request.method().as_str(), request.url(), Shown::Host, 0);
        let answer = self.http.execute(request).instrument(span.span().clone()).await;
        match &answer {
            Ok(answer) => span.answered(answer.status().as_u16()),
            Err(error) => span.failed(span::kind(error)),
        }
        answer
    }
}

fn judge_redirect(guard: EgressPolicy, previous: &[Url], next: &Url) -> Result<(), UrlRefused> {
    if previous.len() > MAX_REDIRECTS {
        return Err(UrlRefused::Redirects);
    }
    if next.scheme() == "http" && previous.last().is_some_and(|url| url.scheme() == "https") {
        return Err(UrlRefused::Downgrade);
    }
    check_url(guard, next)
}

struct PublicResolver;

impl Resolve for PublicResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // The client's connect timeout limits the duration.
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let public = public_of(&found)?;
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Returns the public addresses in `found`. It is an error if there are only private ones.
fn public_of(found: &[SocketAddr]) -> Result<Vec<SocketAddr>, UrlRefused> {
    let public: Vec<SocketAddr> = found.iter().copied().filter(|a| is_public(a.ip())).collect();
    match found.first() {
        Some(first) if public.is_empty() => Err(UrlRefused::Private(first.ip())),
        _ => Ok(public),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{response::Redirect, routing::get};
    use std::future::IntoFuture as _;
    use std::net::IpAddr;
    use tokio_util::sync::CancellationToken;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn resolver_keeps_public_addresses_and_refuses_private_names() {
        let found = |list: &[&str]| -> Vec<SocketAddr> {
            list.iter().map(|text| SocketAddr::new(ip(text), 0)).collect()
        };
        assert_eq!(public_of(&found(&["10.0.0.5", "1.1.1.1"])), Ok(found(&["1.1.1.1"])));
        assert_eq!(public_of(&found(&["10.0.0.5", "::1"])), Err(UrlRefused::Private(ip("10.0.0.5"))));
        assert_eq!(public_of(&[]), Ok(vec![]));
    }

    #[test]
    fn redirects_are_checked_one_by_one() {
        let go = |from: &str, to: &str| judge_redirect(EgressPolicy::PublicOnly, &[url(from)], &url(to));
        assert_eq!(go("http://example.com", "https://example.com"), Ok(()));
        assert_eq!(go("https://example.com", "http://example.com"), Err(UrlRefused::Downgrade));
        assert_eq!(go("http://example.com", "http://10.0.0.5/"), Err(UrlRefused::Private(ip("10.0.0.5"))));
        assert_eq!(go("http://example.com", "file:///etc/passwd"), Err(UrlRefused::Scheme));
        let hops = vec![url("http://example.com"); MAX_REDIRECTS + 1];
        let next = url("http://example.com/next");
        assert_eq!(judge_redirect(EgressPolicy::PublicOnly, &hops, &next), Err(UrlRefused::Redirects));
        assert_eq!(judge_redirect(EgressPolicy::PublicOnly, &hops[1..], &next), Ok(()));
    }

    /// A server on this machine that appears as `public.example` to a guarded client: only the address of the name is
    /// replaced.
    async fn behind_a_public_name() -> (Client, SocketAddr, CancellationToken) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let port = address.port();
        let app = axum::Router::new()
            .route("/here", get(|| async { "here" }))
            .route(
                "/literal",
                get(move || async move { Redirect::temporary(&format!("http://127.0.0.1:{port}/here")) }),
            )
            .route(
                "/name",
                get(move || async move { Redirect::temporary(&format!("http://localhost:{port}/here")) }),
            )
            .route("/loop", get(|| async { Redirect::temporary("/loop") }))
            .route("/good", get(|| async { Redirect::temporary("/here") }));
        let stop = CancellationToken::new();
        let server = axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned());
        tokio::spawn(server.into_future());
        let second = Duration::from_secs(10);
        let timeouts = Timeouts { connect: second, read: second, total: Some(second) };
        let http = builder(EgressPolicy::PublicOnly, timeouts, Redirects::Follow)
            .resolve("public.example", address)
            .build()
            .unwrap();
        (Client { http, guard: EgressPolicy::PublicOnly }, address, stop)
    }

    #[tokio::test]
    async fn redirect_into_a_private_network_is_not_followed() {
        let (client, address, stop) = behind_a_public_name().await;
        let ask = async |path: &str| {
            let at = url(&format!("http://public.example:{}{path}", address.port()));
            let answer = client.send(client.request(Method::GET, &at).unwrap()).await;
            answer.map(|_| ()).map_err(|error| UrlRefused::find(&error).cloned())
        };
        assert_eq!(ask("/good").await, Ok(()));
        assert_eq!(ask("/literal").await, Err(Some(UrlRefused::Private(ip("127.0.0.1")))));
        let by_name = ask("/name").await.unwrap_err().unwrap();
        assert!(matches!(by_name, UrlRefused::Private(ip) if ip.is_loopback()), "{by_name}");
        assert_eq!(ask("/loop").await, Err(Some(UrlRefused::Redirects)));
        stop.cancel();
    }
}
