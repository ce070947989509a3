//! Which IP addresses are public: everything else is refused unless its network is allowed.
//!
//! Sources: the IANA IPv4 and IPv6 Special-Purpose Address Registries, the IPv4 and IPv6 Address Space registries, and
//! RFC 6052 (NAT64), RFC 3056 (6to4), RFC 4380 (Teredo), RFC 5214 (ISATAP).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A block of IPv4 addresses: network, prefix length, what it is.
type BlockV4 = ([u8; 4], u32, &'static str);

/// A block of IPv6 addresses: the network's first four groups, prefix length (at most 64), what it is.
type BlockV6 = ([u16; 4], u32, &'static str);

/// Inside `192.0.0.0/24` and `2001::/23` the registries list a few anycast addresses as reachable; none of them serves
/// images, so the whole blocks are refused.
const SPECIAL_V4: [BlockV4; 16] = [
    ([0, 0, 0, 0], 8, "an address of \"this network\""),
    ([10, 0, 0, 0], 8, "a private address"),
    ([100, 64, 0, 0], 10, "a carrier-grade NAT address"),
    ([127, 0, 0, 0], 8, "a loopback address"),
    // No registry lists it: a public address at which every Azure machine finds its platform's control channel.
    ([168, 63, 129, 16], 32, "Azure's platform address"),
    ([169, 254, 0, 0], 16, "a link-local address"),
    ([172, 16, 0, 0], 12, "a private address"),
    ([192, 0, 0, 0], 24, "an IETF protocol address"),
    ([192, 0, 2, 0], 24, "a documentation address"),
    ([192, 88, 99, 0], 24, "a 6to4 relay address"),
    ([192, 168, 0, 0], 16, "a private address"),
    ([198, 18, 0, 0], 15, "a benchmark address"),
    ([198, 51, 100, 0], 24, "a documentation address"),
    ([203, 0, 113, 0], 24, "a documentation address"),
    ([224, 0, 0, 0], 4, "a multicast address"),
    // Includes 255.255.255.255, the limited broadcast address, which is named before this table is read.
    ([240, 0, 0, 0], 4, "a reserved address"),
];

/// Blocks inside and outside `2000::/3` that have a name; all else outside is reserved.
const SPECIAL_V6: [BlockV6; 11] = [
    ([0x64, 0xff9b, 1, 0], 48, "a local NAT64 address"),
    ([0x100, 0, 0, 0], 64, "a discard-only address"),
    ([0x2001, 0, 0, 0], 32, "a Teredo address"),
    ([0x2001, 0, 0, 0], 23, "an IETF protocol address"),
    ([0x2001, 0xdb8, 0, 0], 32, "a documentation address"),
    ([0x2002, 0, 0, 0], 16, "a 6to4 address"),
    ([0x3fff, 0, 0, 0], 20, "a documentation address"),
    ([0xfc00, 0, 0, 0], 7, "a unique local address"),
    ([0xfe80, 0, 0, 0], 10, "a link-local address"),
    ([0xfec0, 0, 0, 0], 10, "a site-local address"),
    ([0xff00, 0, 0, 0], 8, "a multicast address"),
];

/// Global unicast: the only part of IPv6 that is handed out.
const GLOBAL_UNICAST: BlockV6 = ([0x2000, 0, 0, 0], 3, "");

/// What a refused address is, or `None` for a public one.
pub fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    if address.is_broadcast() {
        return Some("the broadcast address");
    }
    SPECIAL_V4.iter().find(|block| within_v4(address, block)).map(|&(_, _, what)| what)
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    if let Some(inner) = translated(address) {
        return special_v4(inner);
    }
    if address.is_loopback() {
        return Some("a loopback address");
    }
    if address.is_unspecified() {
        return Some("the unspecified address");
    }
    if address.segments()[..6] == [0; 6] {
        return Some("an IPv4-compatible address");
    }
    if let Some(&(_, _, what)) = SPECIAL_V6.iter().find(|block| within_v6(address, block)) {
        return Some(what);
    }
    if !within_v6(address, &GLOBAL_UNICAST) {
        return Some("a reserved address");
    }
    isatap(address).and_then(special_v4).map(|_| "an ISATAP address of a network that is not public")
}

/// The IPv4 address that a packet to this IPv6 address really goes to: IPv4-mapped (`::ffff:0:0/96`) and the well-known
/// NAT64 prefix (`64:ff9b::/96`). Such an address is exactly as public as the one it carries; in an IPv6-only cluster
/// with DNS64 every IPv4 host is reached so.
pub fn translated(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(ipv4(high, low)),
        _ => None,
    }
}

/// The IPv4 address inside an ISATAP interface identifier (`::0:5efe:a.b.c.d`, with or without the universal bit).
fn isatap(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => Some(ipv4(high, low)),
        _ => None,
    }
}

fn ipv4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

fn within_v4(address: Ipv4Addr, &(network, prefix, _): &BlockV4) -> bool {
    (address.to_bits() ^ u32::from_be_bytes(network)) >> (32 - prefix) == 0
}

fn within_v6(address: Ipv6Addr, &(network, prefix, _): &BlockV6) -> bool {
    let network = network.iter().fold(0, |bits, &group| bits << 16 | u64::from(group));
    (((address.to_bits() >> 64) as u64) ^ network) >> (64 - prefix) == 0
}

#[cfg(test)]
mod tests;
