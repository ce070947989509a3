#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

/// First address, last address, the public one before, the public one after, a part of what the block is called.
type Block = (&'static str, &'static str, Option<&'static str>, Option<&'static str>, &'static str);

/// First and last address of every refused block, with the address before and after where those are public.
const BLOCKS: [Block; 32] = [
    ("0.0.0.0", "0.255.255.255", None, Some("1.0.0.0"), "this network"),
    ("10.0.0.0", "10.255.255.255", Some("9.255.255.255"), Some("11.0.0.0"), "private"),
    ("100.64.0.0", "100.127.255.255", Some("100.63.255.255"), Some("100.128.0.0"), "carrier-grade"),
    ("127.0.0.0", "127.255.255.255", Some("126.255.255.255"), Some("128.0.0.0"), "loopback"),
    ("168.63.129.16", "168.63.129.16", Some("168.63.129.15"), Some("168.63.129.17"), "Azure"),
    ("169.254.0.0", "169.254.255.255", Some("169.253.255.255"), Some("169.255.0.0"), "link-local"),
    ("172.16.0.0", "172.31.255.255", Some("172.15.255.255"), Some("172.32.0.0"), "private"),
    ("192.0.0.0", "192.0.0.255", Some("191.255.255.255"), Some("192.0.1.0"), "IETF"),
    ("192.0.2.0", "192.0.2.255", Some("192.0.1.255"), Some("192.0.3.0"), "documentation"),
    ("192.88.99.0", "192.88.99.255", Some("192.88.98.255"), Some("192.88.100.0"), "6to4"),
    ("192.168.0.0", "192.168.255.255", Some("192.167.255.255"), Some("192.169.0.0"), "private"),
    ("198.18.0.0", "198.19.255.255", Some("198.17.255.255"), Some("198.20.0.0"), "benchmark"),
    ("198.51.100.0", "198.51.100.255", Some("198.51.99.255"), Some("198.51.101.0"), "documentation"),
    ("203.0.113.0", "203.0.113.255", Some("203.0.112.255"), Some("203.0.114.0"), "documentation"),
    ("224.0.0.0", "239.255.255.255", Some("223.255.255.255"), None, "multicast"),
    ("240.0.0.0", "255.255.255.254", None, None, "reserved"),
    ("255.255.255.255", "255.255.255.255", None, None, "broadcast"),
    ("::", "::", None, None, "unspecified"),
    ("::1", "::1", None, None, "loopback"),
    ("::2", "::ffff:ffff", None, None, "IPv4-compatible"),
    ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", None, None, "NAT64"),
    ("100::", "100::ffff:ffff:ffff:ffff", None, None, "discard"),
    ("2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", Some("2000:ffff::"), None, "Teredo"),
    ("2001:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", None, Some("2001:200::"), "IETF"),
    ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", Some("2001:db7::"), Some("2001:db9::"), "documentation"),
    ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some("2001:ffff::"), Some("2003::"), "6to4"),
    ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", Some("3ffe:ffff::"), Some("3fff:1000::"), "documentation"),
    ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None, "unique local"),
    ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None, "link-local"),
    ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None, "site-local"),
    ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None, "multicast"),
    ("4000::", "5fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some("3fff:ffff::"), None, "reserved"),
];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn every_block_is_refused_from_its_first_to_its_last_address() {
    for (first, last, before, after, what) in BLOCKS {
        for address in [first, last] {
            let class = special(ip(address));
            assert!(class.is_some_and(|class| class.contains(what)), "{address}: {class:?}, expected {what}");
        }
        for address in [before, after].into_iter().flatten() {
            assert_eq!(special(ip(address)), None, "{address}");
        }
    }
}

#[test]
fn the_rest_of_ipv6_outside_global_unicast_is_refused() {
    for address in ["1::", "64:ff9a::1", "64:ff9b::1:0:0", "64:ff9b:2::", "101::1", "1fff:ffff::", "8000::", "fbff::1"]
    {
        assert_eq!(special(ip(address)), Some("a reserved address"), "{address}");
    }
}

#[test]
fn public_addresses_pass() {
    for address in
        ["1.1.1.1", "8.8.8.8", "192.31.196.1", "2001:4860:4860::8888", "2606:4700:4700::1111", "2620:4f:8000::1"]
    {
        assert_eq!(special(ip(address)), None, "{address}");
    }
}

#[test]
fn an_ipv4_address_in_a_mapped_or_nat64_address_is_judged_itself() {
    for prefix in ["::ffff:", "64:ff9b::"] {
        for (first, last, before, after, _) in BLOCKS.iter().filter(|block| block.0.contains('.')) {
            for address in [first, last] {
                assert!(special(ip(&format!("{prefix}{address}"))).is_some(), "{prefix}{address}");
            }
            for address in [before, after].into_iter().flatten() {
                assert_eq!(special(ip(&format!("{prefix}{address}"))), None, "{prefix}{address}");
            }
        }
    }
}

#[test]
fn tunnels_are_refused_for_any_address_inside() {
    let tunnels = [
        "::8.8.8.8",
        "::127.0.0.1",
        "2002:808:808::1",
        "2002:7f00:1::1",
        "2001:0:808:808::f7f7:f7f7",
        "2001:0:a00:1::80ff:fffe",
        "64:ff9b:1::8.8.8.8",
        "2606:4700::5efe:10.0.0.1",
        "2606:4700::200:5efe:169.254.169.254",
    ];
    for address in tunnels {
        assert!(special(ip(address)).is_some(), "{address}");
    }
    assert_eq!(special(ip("2606:4700::5efe:8.8.8.8")), None);
}
