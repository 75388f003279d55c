//! Outgoing HTTP to addresses that users supply: inputs and webhooks. It refuses private addresses, so that nobody
//! can read a cloud's metadata service or an internal page through tcoder.
//!
//! The guard checks the addresses that a name resolves to when it connects, so a name that resolves differently the
//! second time gains nothing. It checks literal addresses before the request and at every redirect. In the Worker
//! names are not checked, because a Worker can reach only the public internet.

#[cfg(not(target_arch = "wasm32"))]
mod client;
mod post;
#[cfg(not(target_arch = "wasm32"))]
mod span;

use std::error::Error as StdError;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use url::{Host, Url};

#[cfg(not(target_arch = "wasm32"))]
pub use client::{Client, Redirects, Timeouts, client, install_crypto};
pub use post::{PostError, WebhookHttp};
#[cfg(not(target_arch = "wasm32"))]
pub use span::{RequestSpan, Shown};

/// The addresses that may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressPolicy {
    /// Only addresses on the public internet.
    PublicOnly,
    /// All addresses; for an installation whose inputs and webhooks are in its own network.
    AllowPrivate,
}

impl EgressPolicy {
    /// The guard for the setting `ALLOW_PRIVATE_URLS`.
    #[must_use]
    pub const fn allow_private(allowed: bool) -> Self {
        if allowed { Self::AllowPrivate } else { Self::PublicOnly }
    }
}

/// Maximum number of redirects that are followed.
pub const MAX_REDIRECTS: usize = 5;

/// Why an address was refused.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum UrlRefused {
    /// The address is not on the public internet.
    #[error(
        "the address points into a private network ({0}); use a public address, \
         or set ALLOW_PRIVATE_URLS=true where this installation may call its own network"
    )]
    Private(IpAddr),
    /// The address is neither http nor https, or has no host.
    #[error("the address is not http or https with a host; use such an address")]
    Scheme,
    /// The address redirects from https to http.
    #[error("the address redirects from https to http; use the address it redirects to")]
    Downgrade,
    /// The address redirects too often.
    #[error("the address redirects more than {MAX_REDIRECTS} times; use the address it ends at")]
    Redirects,
}

impl UrlRefused {
    /// Finds the refusal that made a request fail, if there is one.
    #[must_use]
    pub fn find<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(refused) = error.downcast_ref() {
                return Some(refused);
            }
            next = error.source();
        }
        None
    }
}

/// Checks whether the guard permits the address. A name is checked again when it is resolved.
///
/// # Errors
/// Why the address is refused.
pub fn check_url(guard: EgressPolicy, url: &Url) -> Result<(), UrlRefused> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(UrlRefused::Scheme);
    }
    let ip: IpAddr = match url.host() {
        None => return Err(UrlRefused::Scheme),
        Some(Host::Domain(_)) => return Ok(()),
        Some(Host::Ipv4(ip)) => ip.into(),
        Some(Host::Ipv6(ip)) => ip.into(),
    };
    if guard == EgressPolicy::AllowPrivate || is_public(ip) { Ok(()) } else { Err(UrlRefused::Private(ip)) }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// The IPv4 ranges that are not the public internet (IANA's special-purpose registry, multicast, and a cloud's host).
const NOT_PUBLIC_V4: [Ipv4Net; 17] = [
    v4(0, 0, 0, 0, 8),        // this network
    v4(10, 0, 0, 0, 8),       // private
    v4(100, 64, 0, 0, 10),    // behind a carrier's NAT
    v4(127, 0, 0, 0, 8),      // loopback
    v4(169, 254, 0, 0, 16),   // link-local, among them the clouds' metadata services
    v4(168, 63, 129, 16, 32), // Azure's WireServer, the host of the machine
    v4(172, 16, 0, 0, 12),    // private
    v4(192, 0, 0, 0, 24),     // protocol assignments
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 31, 196, 0, 24),  // AS112
    v4(192, 88, 99, 0, 24),   // 6to4 relays
    v4(192, 168, 0, 0, 16),   // private
    v4(198, 18, 0, 0, 15),    // benchmarking
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(224, 0, 0, 0, 4),      // multicast
    v4(240, 0, 0, 0, 4),      // reserved, broadcast
];

/// The only IPv6 range that is allocated as public.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 0, 3);

/// The parts of [`GLOBAL_V6`] that are not the public internet.
const NOT_PUBLIC_V6: [Ipv6Net; 4] = [
    v6(0x2001, 0, 0, 23),         // protocol assignments: Teredo, benchmarking, ORCHID
    v6(0x2001, 0xdb8, 0, 32),     // documentation
    v6(0x2620, 0x4f, 0x8000, 48), // AS112
    v6(0x3fff, 0, 0, 20),         // documentation
];

const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 96);
const SIX_TO_FOUR: Ipv6Net = v6(0x2002, 0, 0, 16);

/// Whether the address is on the public internet.
#[must_use]
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

/// What tells clients apart by a public address: an IPv4 address, or the first 64 bits of an IPv6 address, because a client
/// may choose the others. `None` if the address is not public.
#[must_use]
pub(crate) fn client_network(address: IpAddr) -> Option<IpAddr> {
    is_public(address).then(|| match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    })
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    !NOT_PUBLIC_V4.iter().any(|net| net.contains(&ip))
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let [_, b, c, _, _, _, g, h] = ip.segments();
    // These addresses contain an IPv4 address, which is the real destination.
    if ip.to_ipv4_mapped().is_some() || NAT64.contains(&ip) {
        return is_public_v4(embedded(g, h));
    }
    if SIX_TO_FOUR.contains(&ip) {
        return is_public_v4(embedded(b, c));
    }
    GLOBAL_V6.contains(&ip) && !NOT_PUBLIC_V6.iter().any(|net| net.contains(&ip))
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    fn all_private(list: &[&str]) {
        for text in list {
            assert!(!is_public(ip(text)), "{text} is not public");
        }
    }

    #[test]
    fn is_public_accepts_public_addresses() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2001:4860:4860::8888",
        ] {
            assert!(is_public(ip(text)), "{text} is public");
        }
    }

    #[test]
    fn is_public_rejects_this_network() {
        all_private(&["0.0.0.0", "0.255.255.255", "::"]);
    }

    #[test]
    fn is_public_rejects_loopback() {
        all_private(&["127.0.0.1", "127.255.255.255", "::1"]);
    }

    #[test]
    fn is_public_rejects_private_networks() {
        all_private(&["10.0.0.0", "10.255.255.255", "172.16.0.0", "172.31.255.255", "192.168.0.1"]);
    }

    #[test]
    fn is_public_rejects_link_local_and_metadata_services() {
        all_private(&["169.254.0.0", "169.254.169.254", "169.254.255.255", "fe80::1", "febf::1"]);
    }

    #[test]
    fn is_public_rejects_carrier_grade_nat() {
        all_private(&["100.64.0.0", "100.100.100.200", "100.127.255.255"]);
    }

    #[test]
    fn is_public_rejects_multicast() {
        all_private(&["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"]);
    }

    #[test]
    fn is_public_rejects_reserved_and_broadcast() {
        all_private(&["240.0.0.1", "255.255.255.255", "192.0.0.8", "4000::1", "100::1", "5f00::1"]);
    }

    #[test]
    fn is_public_rejects_documentation_ranges() {
        all_private(&["192.0.2.1", "198.51.100.7", "203.0.113.9", "2001:db8::1", "3fff::1"]);
    }

    #[test]
    fn is_public_rejects_benchmarking_ranges() {
        all_private(&["198.18.0.1", "198.19.255.255", "2001:2::1"]);
    }

    #[test]
    fn is_public_rejects_unique_local_and_site_local() {
        all_private(&["fc00::1", "fdaa:0:1::3", "fd00:ec2::254", "fec0::1"]);
    }

    #[test]
    fn is_public_rejects_teredo() {
        all_private(&["2001:0:4136:e378:8000:63bf:3fff:fdd2"]);
    }

    #[test]
    fn is_public_rejects_ipv4_compatible_and_local_nat64() {
        all_private(&["::7f00:1", "::10.0.0.1", "::8.8.8.8", "64:ff9b:1::1"]);
    }

    /// Converts an IPv4 address to an IPv6 address that contains it.
    type Carrier = fn(Ipv4Addr) -> Ipv6Addr;

    const CARRIERS: [Carrier; 3] = [
        |v4| v4.to_ipv6_mapped(),
        |v4| format!("64:ff9b::{v4}").parse().unwrap(),
        |v4| {
            let [a, b, c, d] = v4.octets();
            let pair = |x: u8, y: u8| u16::from_be_bytes([x, y]);
            Ipv6Addr::new(0x2002, pair(a, b), pair(c, d), 0, 0, 0, 0, 1)
        },
    ];

    #[test]
    fn is_public_rejects_embedded_private_addresses() {
        for carry in CARRIERS {
            for inner in ["127.0.0.1", "10.0.0.5", "169.254.169.254", "192.168.1.1"] {
                let outer = carry(inner.parse().unwrap());
                assert!(!is_public(outer.into()), "{outer} carries {inner}");
            }
        }
    }

    proptest! {
        #[test]
        fn is_public_agrees_for_ipv4_and_its_ipv6_forms(bits in any::<u32>()) {
            let inner = Ipv4Addr::from_bits(bits);
            for carry in CARRIERS {
                prop_assert_eq!(is_public(carry(inner).into()), is_public(inner.into()));
            }
        }
    }

    #[test]
    fn check_url_recognises_every_spelling_of_a_literal_address() {
        for text in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://2130706433/",
            "http://127.0.0.1./",
            "http://①②⑦.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://0/",
            "https://169.254.169.254/latest/meta-data/",
        ] {
            assert!(
                matches!(check_url(EgressPolicy::PublicOnly, &url(text)), Err(UrlRefused::Private(_))),
                "{text}"
            );
            assert_eq!(check_url(EgressPolicy::AllowPrivate, &url(text)), Ok(()), "{text}");
        }
        assert_eq!(check_url(EgressPolicy::PublicOnly, &url("https://example.com/a.mp4")), Ok(()));
        for text in ["file:///etc/passwd", "ftp://example.com/a", "data:text/plain,hi"] {
            assert_eq!(check_url(EgressPolicy::AllowPrivate, &url(text)), Err(UrlRefused::Scheme), "{text}");
        }
    }

    #[test]
    fn url_refused_shows_the_address_and_what_to_do() {
        let text = UrlRefused::Private(ip("10.0.0.5")).to_string();
        assert!(text.starts_with("the address points into a private network (10.0.0.5); "), "{text}");
        assert!(text.contains("ALLOW_PRIVATE_URLS"), "{text}");
    }
}
