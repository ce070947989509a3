//! Addresses and URLs that may be fetched, against a second reading of the registries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use imgdex::testing::fetch::Guard;
use imgdex::testing::fetch::special;
use imgdex::testing::fetch::{Refusal, Settings};
use ipnet::{IpNet, Ipv6Net};
use url::{Host, Url};

/// IANA's IPv4 Special-Purpose Address Registry and the multicast block; what is reachable of `192.0.0.0/24` is refused
/// on purpose. `168.63.129.16` is in no registry: the platform address of Azure.
const SPECIAL_V4: &str = "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 \
    192.0.2.0/24 192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 \
    168.63.129.16/32";
/// What is not public of global unicast, by IANA's IPv6 Special-Purpose Address Registry: protocol assignments with
/// Teredo, documentation, 6to4.
const SPECIAL_V6: &str = "2001::/23 2001:db8::/32 2002::/16 3fff::/20";
const GLOBAL_UNICAST: &str = "2000::/3";
/// A password that no input has.
const SECRET: &str = "Hush-4711-xyzzy";

/// The first bytes are taken as addresses and networks, all of them as a URL.
pub fn check(bytes: &[u8]) {
    if let Some((&address, rest)) = bytes.split_first_chunk::<16>() {
        let (v4, v6) = (Ipv4Addr::from_bits(u128::from_be_bytes(address) as u32), Ipv6Addr::from(address));
        is_judged_as_registered(v4);
        is_judged_by_what_it_hides(v4, v6);
        assert_eq!(special(v6.into()).is_some(), !is_public_v6(v6), "{v6}");
        if let Some((&network, rest)) = rest.split_first_chunk::<16>() {
            let prefix = rest.first().copied().unwrap_or_default();
            opens_its_network_only(v4, v6, Ipv6Addr::from(network), prefix);
        }
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(url) = Url::parse(text)
    {
        leads_nowhere_private(&url);
        is_matched_by_its_own_host(&url);
        is_refused_for_user_info(url);
    }
}

fn is_within(networks: &str, address: IpAddr) -> bool {
    networks.split_whitespace().filter_map(|network| network.parse::<IpNet>().ok()).any(|net| net.contains(&address))
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !is_within(SPECIAL_V4, address.into())
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(carried) = carried(address) {
        return is_public_v4(carried);
    }
    let is_isatap = matches!(address.segments(), [.., 0 | 0x200, 0x5efe, _, _]);
    let last = Ipv4Addr::from_bits(address.to_bits() as u32);
    is_within(GLOBAL_UNICAST, address.into())
        && !is_within(SPECIAL_V6, address.into())
        && (!is_isatap || is_public_v4(last))
}

/// The IPv4 address that an IPv4-mapped or NAT64 address stands for.
fn carried(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let nat64 = is_within("64:ff9b::/96", address.into()).then(|| Ipv4Addr::from_bits(address.to_bits() as u32));
    address.to_ipv4_mapped().or(nat64)
}

fn is_judged_as_registered(address: Ipv4Addr) {
    let refused = special(address.into()).is_some();
    assert_eq!(refused, !is_public_v4(address), "{address}");
    // The standard library knows some of the blocks too.
    let known = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_unspecified();
    assert!(refused || !known, "{address}");
}

/// Every way to write this IPv4 address into an IPv6 address.
fn is_judged_by_what_it_hides(hidden: Ipv4Addr, around: Ipv6Addr) {
    let (high, low) = ((hidden.to_bits() >> 16) as u16, hidden.to_bits() as u16);
    let [.., e, f, g, h] = around.segments();
    for same in [hidden.to_ipv6_mapped(), Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low)] {
        assert_eq!(special(same.into()), special(hidden.into()), "{same}");
    }
    for tunnel in [
        Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
        Ipv6Addr::new(0x64, 0xff9b, 1, e, f, g, high, low),
        Ipv6Addr::new(0x2001, 0, e, f, g, h, !high, !low),
        Ipv6Addr::new(0x2002, high, low, e, f, g, h, e),
    ] {
        assert!(special(tunnel.into()).is_some(), "{tunnel}");
    }
    let isatap = Ipv6Addr::new(0x2606, 0x4700, e, f, g & 0x200, 0x5efe, high, low);
    assert_eq!(special(isatap.into()).is_some(), special(hidden.into()).is_some(), "{isatap}");
}

fn guard(settings: &Settings) -> Guard {
    Guard::new(settings).unwrap_or_else(|error| panic!("{settings:?}: {error}"))
}

fn opens_its_network_only(v4: Ipv4Addr, v6: Ipv6Addr, network: Ipv6Addr, prefix: u8) {
    let nets = [
        Ipv6Net::new(network, prefix % 129).map(IpNet::from),
        ipnet::Ipv4Net::new(Ipv4Addr::from_bits(network.to_bits() as u32), prefix % 33).map(IpNet::from),
    ];
    for net in nets.into_iter().flatten() {
        let opened = guard(&Settings { allow_nets: vec![net], ..Settings::default() });
        for address in [v4.into(), v6.into(), v4.to_ipv6_mapped().into(), net.addr(), net.network(), net.broadcast()] {
            let carried = match address {
                IpAddr::V4(_) => None,
                IpAddr::V6(address) => carried(address).map(IpAddr::V4),
            };
            let is_inside = net.contains(&address) || carried.is_some_and(|address| net.contains(&address));
            let expected = if is_inside { Ok(()) } else { special(address).map_or(Ok(()), Err) };
            assert_eq!(opened.admit(address), expected, "{address} with {net}");
        }
    }
}

/// A URL that passes is for the web, and where it names an address, that is a public one.
fn leads_nowhere_private(url: &Url) {
    if guard(&Settings::default()).check(url).is_err() {
        return;
    }
    assert!(matches!(url.scheme(), "http" | "https"), "{url}");
    assert!(url.username().is_empty() && url.password().is_none(), "{url}");
    assert!(matches!(url.port_or_known_default(), Some(80 | 443)), "{url}");
    match url.host() {
        Some(Host::Ipv4(address)) => assert!(is_public_v4(address), "{url}"),
        Some(Host::Ipv6(address)) => assert!(is_public_v6(address), "{url}"),
        // The HTTP client must not read the name as an address: only names are looked up, and judged by what is found.
        Some(Host::Domain(name)) => assert!(name.trim_matches(['[', ']']).parse::<IpAddr>().is_err(), "{url}"),
        None => panic!("{url} has no host"),
    }
}

fn is_matched_by_its_own_host(url: &Url) {
    let Some(host) = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https")) else { return };
    let denied = Guard::new(&Settings { deny_hosts: vec![host.to_owned()], ..Settings::default() });
    let allowed = Guard::new(&Settings { allow_hosts: vec![host.to_owned()], ..Settings::default() });
    let (Ok(denied), Ok(allowed)) = (denied, allowed) else {
        assert!(host.starts_with(['*', '.']), "{host:?} is no entry of a list");
        return;
    };
    assert!(denied.check(url).is_err(), "{url}");
    let plain = guard(&Settings::default()).check(url).map_err(|error| error.to_string());
    assert_eq!(allowed.check(url).map_err(|error| error.to_string()), plain, "{url}");
}

fn is_refused_for_user_info(mut url: Url) {
    if url.as_str().contains(SECRET) || url.set_password(Some(SECRET)).is_err() {
        return;
    }
    match guard(&Settings::default()).check(&url) {
        Err(error @ (Refusal::UserInfo | Refusal::Scheme { .. })) => {
            assert!(!error.to_string().contains(SECRET), "{error}");
        }
        other => panic!("{url}: {other:?}"),
    }
}
