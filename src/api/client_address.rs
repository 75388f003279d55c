//! The address of a client, as far as a limit may rely on it.

use std::convert::Infallible;
use std::net::IpAddr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use crate::net::client_network;

/// The public address that a request comes from: an IPv4 address, or the first 64 bits of an IPv6 address, because a
/// client may choose the others. `None` if only an address of a private network is known, which may be that of a
/// gateway with many clients behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClientAddress(pub Option<IpAddr>);

impl<S: Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(public_address(parts).and_then(client_network)))
    }
}

/// The peer of the connection, if it is public. Otherwise it is a proxy, and the first public address in
/// `X-Forwarded-For` is what the first proxy says of its client. Later ones may be those of proxies, which many clients
/// share: Fly appends the app's own. Clients can invent an address, and gain no more than to be counted apart.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn public_address(parts: &Parts) -> Option<IpAddr> {
    use crate::http_server::PeerAddress;
    use crate::net::is_public;

    let PeerAddress(peer) = *parts.extensions.get()?;
    if is_public(peer) {
        return Some(peer);
    }
    let forwarded = parts.headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let mut addresses = forwarded.flat_map(|value| value.split(',')).filter_map(address);
    addresses.find(|address| is_public(*address))
}

/// Cloudflare sets this header, and clients cannot.
#[cfg(target_arch = "wasm32")]
fn public_address(parts: &Parts) -> Option<IpAddr> {
    address(parts.headers.get("cf-connecting-ip")?.to_str().ok()?)
}

/// Parses an address. Some proxies add the port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    text.parse().ok().or_else(|| text.parse().ok().map(|with_port: std::net::SocketAddr| with_port.ip()))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;
    use crate::http_server::PeerAddress;

    async fn client(peer: &str, forwarded: &[&str]) -> Option<String> {
        let mut request = Request::builder().extension(PeerAddress(peer.parse().unwrap()));
        for value in forwarded {
            request = request.header("x-forwarded-for", *value);
        }
        let mut parts = request.body(()).unwrap().into_parts().0;
        let Ok(ClientAddress(address)) = ClientAddress::from_request_parts(&mut parts, &()).await;
        address.map(|address| address.to_string())
    }

    #[tokio::test]
    async fn client_address_is_public_and_not_invented() {
        for (peer, forwarded, expected) in [
            ("8.8.4.4", &[][..], Some("8.8.4.4")),
            ("::ffff:8.8.4.4", &[], Some("8.8.4.4")),
            ("2a00:1450:4001:82a:1:2:3:4", &[], Some("2a00:1450:4001:82a::")),
            // A client that is no proxy.
            ("8.8.4.4", &["1.1.1.1"], Some("8.8.4.4")),
            // Behind one proxy, behind two, and behind one that adds its own address, as Fly's does.
            ("10.0.0.7", &["8.8.4.4"], Some("8.8.4.4")),
            ("10.0.0.7", &["10.1.2.3", "8.8.4.4:4711, 10.0.0.8"], Some("8.8.4.4")),
            ("10.0.0.7", &["8.8.4.4, 66.241.124.1"], Some("8.8.4.4")),
            ("fd00::7", &["[2a00:1450:4001:82a::200e]:443"], Some("2a00:1450:4001:82a::")),
            // Gateways that many may share.
            ("10.0.0.7", &[], None),
            ("127.0.0.1", &["10.1.2.3, unknown"], None),
        ] {
            assert_eq!(client(peer, forwarded).await.as_deref(), expected, "{peer} {forwarded:?}");
        }
    }

    #[tokio::test]
    async fn client_address_without_a_connection_is_unknown() {
        let mut parts = Request::new(()).into_parts().0;
        let found = ClientAddress::from_request_parts(&mut parts, &()).await;
        assert_eq!(found, Ok(ClientAddress(None)));
    }
}
