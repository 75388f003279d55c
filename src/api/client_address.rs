//! The address of a client, as far as a limit may rely on it.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderName;
use axum::http::request::Parts;

use super::AppState;
use crate::net::{client_network, is_public};

/// The public address that a request comes from: an IPv4 address, or the first 64 bits of an IPv6 address, because a
/// client may choose the others. `None` if only an address of a private network is known, which may be that of a
/// gateway with many clients behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClientAddress(pub Option<IpAddr>);

impl FromRequestParts<Arc<AppState>> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<AppState>) -> Result<Self, Infallible> {
        Ok(Self(public_address(parts, app.config.client_address_header.as_ref()).and_then(client_network)))
    }
}

/// What the configured header says. Without one, the peer of the connection, if it is public. Otherwise the peer is a
/// proxy, and the last public address in `X-Forwarded-For` is that of whom the outermost proxy of this network has
/// accepted a connection from. Those before it are what that client says: it could pass for many.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn public_address(parts: &Parts, header: Option<&HeaderName>) -> Option<IpAddr> {
    use crate::http_server::PeerAddress;

    if let Some(name) = header {
        return last_public(parts, name);
    }
    let PeerAddress(peer) = *parts.extensions.get()?;
    if is_public(peer) { Some(peer) } else { last_public(parts, &HeaderName::from_static("x-forwarded-for")) }
}

/// What the configured header says. Without one, that which Cloudflare sets, and clients cannot.
#[cfg(target_arch = "wasm32")]
fn public_address(parts: &Parts, header: Option<&HeaderName>) -> Option<IpAddr> {
    last_public(parts, header.unwrap_or(&HeaderName::from_static("cf-connecting-ip")))
}

/// The last public address in a header, which may be a list and stand there several times.
fn last_public(parts: &Parts, name: &HeaderName) -> Option<IpAddr> {
    let values = parts.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let mut addresses = values.flat_map(|value| value.split(',')).filter_map(address);
    addresses.rfind(|address| is_public(*address))
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

    fn client(peer: Option<&str>, header: Option<&HeaderName>, headers: &[(&str, &str)]) -> Option<String> {
        let mut request = Request::new(());
        if let Some(peer) = peer {
            request.extensions_mut().insert(PeerAddress(peer.parse().unwrap()));
        }
        for (name, value) in headers {
            request.headers_mut().append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let address = public_address(&request.into_parts().0, header).and_then(client_network);
        address.map(|address| address.to_string())
    }

    #[test]
    fn client_address_is_public_and_not_invented() {
        for (peer, forwarded, expected) in [
            ("8.8.4.4", &[][..], Some("8.8.4.4")),
            ("::ffff:8.8.4.4", &[], Some("8.8.4.4")),
            ("2a00:1450:4001:82a:1:2:3:4", &[], Some("2a00:1450:4001:82a::")),
            // A client that is no proxy.
            ("8.8.4.4", &["1.1.1.1"], Some("8.8.4.4")),
            // Behind one proxy, and behind two of a private network.
            ("10.0.0.7", &["8.8.4.4"], Some("8.8.4.4")),
            ("10.0.0.7", &["10.1.2.3", "8.8.4.4:4711, 10.0.0.8"], Some("8.8.4.4")),
            ("fd00::7", &["[2a00:1450:4001:82a::200e]:443"], Some("2a00:1450:4001:82a::")),
            // A client that says it is a proxy.
            ("10.0.0.7", &["1.1.1.1, 8.8.4.4"], Some("8.8.4.4")),
            ("10.0.0.7", &["1.1.1.1", "8.8.4.4"], Some("8.8.4.4")),
            // Fly's proxy adds the app's own address, which all clients share: there the header must be configured.
            ("10.0.0.7", &["8.8.4.4, 66.241.124.1"], Some("66.241.124.1")),
            // Gateways that many may share.
            ("10.0.0.7", &[], None),
            ("127.0.0.1", &["10.1.2.3, unknown"], None),
        ] {
            let headers: Vec<_> = forwarded.iter().map(|value| ("x-forwarded-for", *value)).collect();
            let found = client(Some(peer), None, &headers);
            assert_eq!(found.as_deref(), expected, "{peer} {forwarded:?}");
        }
        assert_eq!(client(None, None, &[("x-forwarded-for", "8.8.4.4")]), None, "no connection is known");
    }

    #[test]
    fn client_address_is_what_the_configured_header_says() {
        let header = HeaderName::from_static("fly-client-ip");
        for (headers, expected) in [
            (
                &[("fly-client-ip", "8.8.4.4"), ("x-forwarded-for", "1.1.1.1, 66.241.124.1")][..],
                Some("8.8.4.4"),
            ),
            (&[("x-forwarded-for", "8.8.4.4")], None),
            (&[("fly-client-ip", "10.0.0.1")], None),
        ] {
            for peer in ["10.0.0.7", "9.9.9.9"] {
                assert_eq!(client(Some(peer), Some(&header), headers).as_deref(), expected, "{headers:?}");
            }
        }
    }
}
