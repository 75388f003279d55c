//! The address at which clients reach the system, and whether secrets may travel there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use url::Host;

use crate::config::{BaseUrl, InvalidBaseUrl};

/// The system cannot be reached safely, or not at all.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AddressError {
    /// The name of this machine is unknown.
    #[error(
        "{0} is every address of this machine; set the address at which others reach it with --public-url or \
         --public-host NAME (or IP), or listen on a single address"
    )]
    Nameless(SocketAddr),
    /// Everybody could use it.
    #[error("everybody who reaches {0} could use it without a token; set API_TOKENS")]
    Open(BaseUrl),
    /// Everything would travel without encryption.
    #[error(
        "other machines would reach {0} without encryption, with tokens and videos; give a certificate with --tls-cert and \
         --tls-key, or listen on 127.0.0.1 behind a proxy that ends TLS and set its https address with --public-url, or \
         accept it with --plain-http"
    )]
    PlainHttp(BaseUrl),
    /// The address contains a path.
    #[error("--public-url must have no path, because the page and the buckets are at its root")]
    Path,
    /// The address is not valid.
    #[error("the address at which others reach this machine is not valid: {0}")]
    Invalid(#[from] InvalidBaseUrl),
}

/// How clients reach the system.
#[derive(Clone, Debug)]
pub(super) struct Exposure<'a> {
    /// The address of its socket.
    pub listening: SocketAddr,
    /// Whether it speaks TLS itself.
    pub is_tls: bool,
    /// The whole address, if a proxy in front of it has another.
    pub public_url: Option<&'a BaseUrl>,
    /// The name or IP of this machine.
    pub public_host: Option<&'a Host>,
    /// Whether it may be reached from other machines without encryption.
    pub plain_http: bool,
    /// Whether callers need a token.
    pub needs_token: bool,
}

impl Exposure<'_> {
    /// The address that clients use.
    ///
    /// # Errors
    /// If it is not known, or is not this machine's own and not encrypted.
    pub(super) fn address(&self) -> Result<BaseUrl, AddressError> {
        let address = match (self.public_url, self.public_host) {
            (Some(url), _) => url.clone(),
            (None, Some(host)) => self.at(host)?,
            (None, None) if self.listening.ip().is_unspecified() => {
                return Err(AddressError::Nameless(self.listening));
            }
            (None, None) => self.at(&host_of(self.listening.ip()))?,
        };
        if address.as_url().path() != "/" {
            return Err(AddressError::Path);
        }
        if !address.is_loopback() && !self.needs_token {
            return Err(AddressError::Open(address));
        }
        // Whatever its address, others reach the socket itself, too, unless it is this machine's own.
        let is_encrypted = address.as_url().scheme() == "https" || address.is_loopback();
        let is_reached_safely = self.is_tls || self.listening.ip().is_loopback();
        if !(is_encrypted && is_reached_safely || self.plain_http) {
            return Err(AddressError::PlainHttp(address));
        }
        Ok(address)
    }

    fn at(&self, host: &Host) -> Result<BaseUrl, InvalidBaseUrl> {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{host}:{}", self.listening.port()).parse()
    }
}

fn host_of(ip: IpAddr) -> Host {
    match ip {
        IpAddr::V4(ip) => Host::Ipv4(ip),
        IpAddr::V6(ip) => Host::Ipv6(ip),
    }
}

/// The loopback address with the port after this one, at which the workers of this machine reach the storage. Where it is
/// free, the addresses in the settings of machines remain valid after a restart.
pub(super) fn storage_address(api: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match api.ip() {
        IpAddr::V6(ip) if ip.is_loopback() => Ipv6Addr::LOCALHOST.into(),
        _ => Ipv4Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, api.port().checked_add(1).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(
        listening: &str,
        is_tls: bool,
        public_url: Option<&str>,
        public_host: Option<&str>,
        plain_http: bool,
    ) -> Result<String, String> {
        let url: Option<BaseUrl> = public_url.map(|url| url.parse().unwrap());
        let host: Option<Host> = public_host.map(|host| Host::parse(host).unwrap());
        let exposure = Exposure {
            listening: listening.parse().unwrap(),
            is_tls,
            public_url: url.as_ref(),
            public_host: host.as_ref(),
            plain_http,
            needs_token: true,
        };
        exposure.address().map(|url| url.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn address_is_this_machines_own_or_encrypted() {
        for (listening, is_tls, url, host, expected) in [
            ("127.0.0.1:8080", false, None, None, Ok("http://127.0.0.1:8080/")),
            ("[::1]:8080", false, None, None, Ok("http://[::1]:8080/")),
            ("127.0.0.1:8443", true, None, Some("films.example"), Ok("https://films.example:8443/")),
            ("0.0.0.0:8443", true, None, Some("films.example"), Ok("https://films.example:8443/")),
            ("10.0.0.5:443", true, None, None, Ok("https://10.0.0.5/")),
            ("127.0.0.1:8080", false, Some("https://films.example"), None, Ok("https://films.example/")),
            ("0.0.0.0:8443", true, Some("https://films.example"), None, Ok("https://films.example/")),
            // The proxy is not the only one that reaches this socket.
            ("0.0.0.0:8080", false, Some("https://films.example"), None, Err("without encryption")),
            ("127.0.0.1:8080", false, Some("http://localhost:9000"), None, Ok("http://localhost:9000/")),
            ("0.0.0.0:8080", false, None, None, Err("--public-host")),
            ("0.0.0.0:8443", true, None, None, Err("--public-host")),
            ("10.0.0.5:8080", false, None, None, Err("--tls-cert")),
            ("0.0.0.0:8080", false, None, Some("films.example"), Err("--plain-http")),
            // Others reach it by the machine's other names.
            ("0.0.0.0:8080", false, None, Some("localhost"), Err("--plain-http")),
            ("127.0.0.1:8080", false, Some("http://films.example"), None, Err("--plain-http")),
            ("127.0.0.1:8080", false, Some("https://films.example/videos"), None, Err("no path")),
        ] {
            let found = address(listening, is_tls, url, host, false);
            match expected {
                Ok(expected) => assert_eq!(found.as_deref(), Ok(expected), "{listening} {url:?} {host:?}"),
                Err(words) => {
                    let error = found.unwrap_err();
                    assert!(error.contains(words), "{listening} {url:?} {host:?}: {error}");
                }
            }
        }
        let accepted = address("0.0.0.0:8080", false, None, Some("films.example"), true);
        assert_eq!(accepted.as_deref(), Ok("http://films.example:8080/"));
        // As in a container whose port only its own machine reaches.
        let accepted = address("0.0.0.0:8080", false, Some("http://localhost:9000"), None, true);
        assert_eq!(accepted.as_deref(), Ok("http://localhost:9000/"));
    }

    #[test]
    fn address_that_others_reach_needs_a_token() {
        let public = "https://films.example".parse().unwrap();
        let open = |public_url| Exposure {
            listening: "127.0.0.1:8080".parse().unwrap(),
            is_tls: false,
            public_url,
            public_host: None,
            plain_http: true,
            needs_token: false,
        };
        let error = open(Some(&public)).address().unwrap_err();
        assert_eq!(error, AddressError::Open(public.clone()));
        assert!(open(None).address().is_ok());
    }

    #[test]
    fn storage_listens_on_this_machine_alone() {
        for (api, storage) in [
            ("127.0.0.1:8080", "127.0.0.1:8081"),
            ("0.0.0.0:8080", "127.0.0.1:8081"),
            ("[::1]:8080", "[::1]:8081"),
            ("10.0.0.5:65535", "127.0.0.1:0"),
        ] {
            assert_eq!(storage_address(api.parse().unwrap()).to_string(), storage, "{api}");
        }
    }
}
