#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|&entry| entry.to_owned()).collect()
}

fn check(settings: &Settings, url: &str) -> Result<(), Refusal> {
    Guard::new(settings).unwrap().check(&Url::parse(url).unwrap())
}

fn refused_address(url: &str) -> IpAddr {
    match check(&Settings::default(), url) {
        Err(Refusal::Address { address, .. }) => address,
        other => panic!("{url}: {other:?}"),
    }
}

#[test]
fn only_http_and_https() {
    for url in
        ["ftp://example.com/a", "file:///etc/passwd", "gopher://example.com/", "data:image/png,x", "ws://example.com"]
    {
        assert!(matches!(check(&Settings::default(), url), Err(Refusal::Scheme { .. })), "{url}");
    }
    check(&Settings::default(), "http://example.com/a").unwrap();
    check(&Settings::default(), "HTTPS://example.com/a").unwrap();
}

#[test]
fn user_info_is_refused_and_not_quoted() {
    for url in ["http://user@example.com/", "http://user:secret@example.com/", "http://:secret@example.com/"] {
        let error = check(&Settings::default(), url).unwrap_err();
        assert!(matches!(error, Refusal::UserInfo), "{url}: {error:?}");
        assert!(!error.to_string().contains("secret"));
    }
}

#[test]
fn ports_80_and_443_unless_allowed() {
    let allowing = Settings { allow_ports: vec![9000], ..Settings::default() };
    for url in ["http://example.com:80/", "http://example.com:443/", "https://example.com:80/"] {
        check(&Settings::default(), url).unwrap();
    }
    for port in [0, 22, 6379, 8080, 9000, 9200] {
        let url = format!("http://example.com:{port}/");
        assert!(matches!(check(&Settings::default(), &url), Err(Refusal::Port { port: found }) if found == port));
    }
    check(&allowing, "http://example.com:9000/").unwrap();
    check(&allowing, "http://example.com/").unwrap();
    assert!(matches!(check(&allowing, "http://example.com:9001/"), Err(Refusal::Port { .. })));
}

#[test]
fn literal_addresses_are_judged_in_every_spelling() {
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let spellings = [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.0.0.1.",
        "%31%32%37.0.0.1",
        "１２７.0.0.1",
    ];
    for host in spellings {
        assert_eq!(refused_address(&format!("http://{host}/")), loopback, "{host}");
    }
    assert_eq!(refused_address("http://[::1]/").to_string(), "::1");
    assert_eq!(
        refused_address("http://[::ffff:169.254.169.254]/latest/meta-data").to_string(),
        "::ffff:169.254.169.254"
    );
    assert_eq!(refused_address("http://[64:ff9b::a9fe:a9fe]/").to_string(), "64:ff9b::a9fe:a9fe");
    assert_eq!(refused_address("http://0/").to_string(), "0.0.0.0");
    check(&Settings::default(), "http://8.8.8.8/").unwrap();
    check(&Settings::default(), "http://[2606:4700:4700::1111]/").unwrap();
}

#[test]
fn exceptions_open_exactly_their_network() {
    let guard = Guard::new(&Settings {
        allow_nets: vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/32".parse().unwrap()],
        ..Settings::default()
    })
    .unwrap();
    for address in ["10.1.0.0", "10.1.255.255", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "fd00:1::5", "8.8.8.8"] {
        assert_eq!(guard.admit(address.parse().unwrap()), Ok(()), "{address}");
    }
    for address in [
        "10.0.255.255",
        "10.2.0.0",
        "::ffff:10.2.0.0",
        "64:ff9b::10.2.0.0",
        "fd00:2::5",
        "2002:a01:203::1",
        "::10.1.2.3",
    ] {
        assert!(guard.admit(address.parse().unwrap()).is_err(), "{address}");
    }
}

#[test]
fn an_exception_for_all_of_ipv4_does_not_open_ipv6() {
    let guard =
        Guard::new(&Settings { allow_nets: vec!["0.0.0.0/0".parse().unwrap()], ..Settings::default() }).unwrap();
    assert_eq!(guard.admit("127.0.0.1".parse().unwrap()), Ok(()));
    assert_eq!(guard.admit("::1".parse().unwrap()), Err("a loopback address"));
}

#[test]
fn host_lists_match_suffixes_on_label_boundaries() {
    let settings = Settings {
        allow_hosts: strings(&["Example.COM", "bücher.example", "8.8.8.8"]),
        deny_hosts: strings(&["private.example.com."]),
        ..Settings::default()
    };
    for host in [
        "example.com",
        "EXAMPLE.com",
        "example.com.",
        "a.b.example.com",
        "xn--bcher-kva.example",
        "BÜCHER.example",
        "8.8.8.8",
    ] {
        check(&settings, &format!("http://{host}/")).unwrap_or_else(|error| panic!("{host}: {error}"));
    }
    for host in [
        "badexample.com",
        "example.com.evil.org",
        "com",
        "private.example.com",
        "x.Private.example.com.",
        "8.8.4.4",
        "example.org",
    ] {
        let error = check(&settings, &format!("http://{host}/")).unwrap_err();
        assert!(matches!(error, Refusal::Host { .. }), "{host}: {error:?}");
    }
}

#[test]
fn an_allowed_host_name_does_not_open_its_address() {
    let settings = Settings { allow_hosts: strings(&["127.0.0.1"]), ..Settings::default() };
    assert!(matches!(check(&settings, "http://127.0.0.1/"), Err(Refusal::Address { .. })));
}

#[test]
fn a_list_entry_that_cannot_match_is_an_error() {
    for entry in ["*.example.com", ".example.com", "", "http://example.com", "a b"] {
        for settings in [
            Settings { allow_hosts: strings(&[entry]), ..Settings::default() },
            Settings { deny_hosts: strings(&[entry]), ..Settings::default() },
        ] {
            assert!(matches!(Guard::new(&settings), Err(Error::Setup { .. })), "{entry:?}");
        }
    }
}
