//! The guard's table: spellings of addresses that must never be connected to, and of public ones.

use std::net::IpAddr;

use crate::egress::{DialError, DialTimeouts, Guard, Reason, UrlError, dial, parse_ranges};

fn guard(allow: &str) -> Guard {
    Guard::new(parse_ranges(allow).unwrap())
}

/// Spellings of internal addresses as the host of a URL, and the kind of address they are.
const INTERNAL_HOSTS: &[(&str, Reason)] = &[
    ("127.0.0.1", Reason::Loopback),
    ("127.0.0.1.", Reason::Loopback),
    ("127.255.255.254", Reason::Loopback),
    ("127.1", Reason::Loopback),
    ("127.0.1", Reason::Loopback),
    ("2130706433", Reason::Loopback),
    ("0x7f000001", Reason::Loopback),
    ("0x7F.0x0.0x0.0x1", Reason::Loopback),
    ("0x7f.1", Reason::Loopback),
    ("017700000001", Reason::Loopback),
    ("0177.0.0.1", Reason::Loopback),
    ("0177.0.0.01", Reason::Loopback),
    ("00000177.0.0.1", Reason::Loopback),
    ("%31%32%37.0.0.1", Reason::Loopback),
    ("127%2e0%2e0%2e1", Reason::Loopback),
    ("①②⑦.0.0.1", Reason::Loopback),
    ("１２７.０.０.１", Reason::Loopback),
    ("127。0。0。1", Reason::Loopback),
    ("𝟏𝟐𝟕.𝟎.𝟎.𝟏", Reason::Loopback),
    ("localhost", Reason::Loopback),
    ("LOCALHOST", Reason::Loopback),
    ("localhost.", Reason::Loopback),
    ("ｌｏｃａｌｈｏｓｔ", Reason::Loopback),
    ("any.localhost", Reason::Loopback),
    ("a.b.LocalHost.", Reason::Loopback),
    ("0", Reason::Unspecified),
    ("0.0.0.0", Reason::Unspecified),
    ("0x0", Reason::Unspecified),
    ("0.1.2.3", Reason::Unspecified),
    ("10.0.0.1", Reason::Private),
    ("10.1", Reason::Private),
    ("012.0.0.1", Reason::Private),
    ("0xa.0.0.1", Reason::Private),
    ("167772161", Reason::Private),
    ("172.16.0.1", Reason::Private),
    ("172.31.255.255", Reason::Private),
    ("192.168.1.1", Reason::Private),
    ("192.168.257", Reason::Private),
    ("3232235777", Reason::Private),
    ("100.64.0.1", Reason::CarrierNat),
    ("100.127.255.255", Reason::CarrierNat),
    ("169.254.1.1", Reason::LinkLocal),
    ("169.254.169.254", Reason::Metadata),
    ("2852039166", Reason::Metadata),
    ("0xa9fea9fe", Reason::Metadata),
    ("0251.0376.0251.0376", Reason::Metadata),
    ("169.16689662", Reason::Metadata),
    ("100.100.100.200", Reason::Metadata),
    ("192.0.0.192", Reason::Metadata),
    ("168.63.129.16", Reason::Metadata),
    ("192.0.0.8", Reason::Reserved),
    ("192.0.2.1", Reason::Documentation),
    ("198.51.100.7", Reason::Documentation),
    ("203.0.113.9", Reason::Documentation),
    ("192.88.99.1", Reason::Tunnel),
    ("198.18.0.1", Reason::Benchmark),
    ("198.19.255.255", Reason::Benchmark),
    ("224.0.0.1", Reason::Multicast),
    ("239.255.255.255", Reason::Multicast),
    ("240.0.0.1", Reason::Reserved),
    ("255.255.255.255", Reason::Broadcast),
    ("4294967295", Reason::Broadcast),
    ("[::]", Reason::Unspecified),
    ("[::1]", Reason::Loopback),
    ("[0:0:0:0:0:0:0:1]", Reason::Loopback),
    ("[0000:0000:0000:0000:0000:0000:0000:0001]", Reason::Loopback),
    ("[::ffff:127.0.0.1]", Reason::Loopback),
    ("[::ffff:7f00:1]", Reason::Loopback),
    ("[0:0:0:0:0:FFFF:7F00:0001]", Reason::Loopback),
    ("[::ffff:10.0.0.1]", Reason::Private),
    ("[::ffff:169.254.169.254]", Reason::Metadata),
    ("[::ffff:a9fe:a9fe]", Reason::Metadata),
    ("[::127.0.0.1]", Reason::Loopback),
    ("[::7f00:1]", Reason::Loopback),
    ("[::10.0.0.1]", Reason::Private),
    ("[::8.8.8.8]", Reason::Tunnel),
    ("[64:ff9b::127.0.0.1]", Reason::Tunnel),
    ("[64:ff9b::a00:1]", Reason::Tunnel),
    ("[64:ff9b::8.8.8.8]", Reason::Tunnel),
    ("[64:ff9b:1::a9fe:a9fe]", Reason::Tunnel),
    ("[64:ff9b:1:fffe::1]", Reason::Tunnel),
    ("[2002:7f00:1::]", Reason::Tunnel),
    ("[2002:a9fe:a9fe::1]", Reason::Tunnel),
    ("[2001::1]", Reason::Tunnel),
    ("[2001:0:7f00:1::]", Reason::Tunnel),
    ("[2001:0:4136:e378:8000:63bf:3fff:fdd2]", Reason::Tunnel),
    ("[2001:2::1]", Reason::Benchmark),
    ("[2001:10::1]", Reason::Reserved),
    ("[2001:db8::1]", Reason::Documentation),
    ("[3fff::1]", Reason::Documentation),
    ("[100::1]", Reason::Discard),
    ("[fc00::1]", Reason::Private),
    ("[fd12:3456:789a::1]", Reason::Private),
    ("[fd00:ec2::254]", Reason::Metadata),
    ("[fd20:ce::254]", Reason::Metadata),
    ("[fe80::1]", Reason::LinkLocal),
    ("[febf::1]", Reason::LinkLocal),
    ("[fec0::1]", Reason::Private),
    ("[ff02::1]", Reason::Multicast),
    ("[5f00::1]", Reason::Reserved),
    ("[4000::1]", Reason::Reserved),
    ("[::ffff:0:127.0.0.1]", Reason::Reserved),
];

#[test]
fn every_spelling_of_an_internal_address_is_refused() {
    let guard = Guard::default();
    for (host, reason) in INTERNAL_HOSTS {
        for url in
            [format!("http://{host}/"), format!("https://{host}:8443/hook?x=1"), format!("HTTP://{host}#@example.com")]
        {
            match guard.check_url(&url) {
                Err(UrlError::Denied(denied)) => assert_eq!(denied.reason, *reason, "{url}"),
                other => panic!("{url} gave {other:?}"),
            }
        }
    }
}

#[test]
fn tricks_around_the_host_are_refused() {
    for (url, code) in [
        ("http://example.com@127.0.0.1/", "url_userinfo"),
        ("http://127.0.0.1@example.com/", "url_userinfo"),
        ("http://user:secret@example.com/", "url_userinfo"),
        ("http://@example.com/", "url_userinfo"),
        ("http://:@example.com/", "url_userinfo"),
        ("http:\\\\@example.com/", "url_userinfo"),
        ("http://example.com%40127.0.0.1/", "url_invalid"),
        ("http://127.0.0.1\\@example.com/", "url_denied"),
        ("http:127.0.0.1/", "url_denied"),
        ("http:///127.0.0.1/", "url_denied"),
        ("http:/\\127.0.0.1/", "url_denied"),
        ("http://127.0.0.1#.example.com", "url_denied"),
        ("http://127.0.0.1?.example.com", "url_denied"),
        ("http://exa\tmple.com/", "url_invalid"),
        ("http://example.com/\r\nx: y", "url_invalid"),
        (" http://example.com/", "url_invalid"),
        ("http://[fe80::1%25eth0]/", "url_invalid"),
        ("http://256.256.256.256/", "url_invalid"),
        ("http://1.2.3.4.5/", "url_invalid"),
        ("http://0x100000000/", "url_invalid"),
        ("http://", "url_no_host"),
        ("http://./", "url_no_host"),
        ("http://example.com:0/", "url_port"),
        ("http://example.com:99999/", "url_invalid"),
        ("ftp://example.com/", "url_scheme"),
        ("file:///etc/passwd", "url_scheme"),
        ("gopher://127.0.0.1:6379/_x", "url_scheme"),
        ("javascript:alert(1)", "url_scheme"),
        ("example.com/hook", "url_invalid"),
        ("//example.com/hook", "url_invalid"),
        ("", "url_invalid"),
    ] {
        match Guard::default().check_url(url) {
            Err(error) => assert_eq!(error.code(), code, "{url:?}"),
            Ok(url) => panic!("{url} was accepted"),
        }
    }
    let long = format!("https://example.com/{}", "a".repeat(2048));
    assert_eq!(Guard::default().check_url(&long), Err(UrlError::TooLong));
}

#[test]
fn public_destinations_are_accepted() {
    for (url, expected) in [
        ("https://example.com/hook", "https://example.com/hook"),
        ("HTTPS://EXAMPLE.com:443/hook?a=@b#part", "https://example.com/hook?a=@b"),
        ("http://example.com.:8080", "http://example.com.:8080/"),
        ("http://8.8.8.8/", "http://8.8.8.8/"),
        ("http://134744072/", "http://8.8.8.8/"),
        ("http://11.0.0.1/", "http://11.0.0.1/"),
        ("http://172.15.255.255/", "http://172.15.255.255/"),
        ("http://172.32.0.1/", "http://172.32.0.1/"),
        ("http://100.63.255.255/", "http://100.63.255.255/"),
        ("http://100.128.0.1/", "http://100.128.0.1/"),
        ("http://192.0.1.1/", "http://192.0.1.1/"),
        ("http://198.17.0.1/", "http://198.17.0.1/"),
        ("http://223.255.255.255/", "http://223.255.255.255/"),
        ("http://[2606:4700::1111]/", "http://[2606:4700::1111]/"),
        ("http://[2a00:1450:4001::1]:8080/x", "http://[2a00:1450:4001::1]:8080/x"),
        ("http://[2001:4860:4860::8888]/", "http://[2001:4860:4860::8888]/"),
        ("http://[::ffff:8.8.8.8]/", "http://[::ffff:808:808]/"),
        ("http://localhost.example.com/", "http://localhost.example.com/"),
        ("http://notlocalhost/", "http://notlocalhost/"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"),
    ] {
        match Guard::default().check_url(url) {
            Ok(url) => assert_eq!(url.as_str(), expected),
            Err(error) => panic!("{url} was refused: {error}"),
        }
    }
}

#[test]
fn ranges_that_the_operator_allows_win() {
    for (allow, address, allowed) in [
        ("10.0.0.0/8", "10.1.2.3", true),
        ("10.0.0.0/8", "::ffff:10.1.2.3", true),
        ("10.0.0.0/8", "11.1.2.3", true),
        ("10.0.0.0/8", "192.168.0.1", false),
        ("10.1.0.0/16", "10.2.0.1", false),
        ("10.9.9.9/8", "10.1.2.3", true),
        ("::ffff:10.0.0.0/104", "10.1.2.3", true),
        ("192.168.7.7", "192.168.7.7", true),
        ("192.168.7.7", "192.168.7.8", false),
        ("127.0.0.0/8, fd00::/8", "fd00::1", true),
        ("127.0.0.0/8,fd00::/8", "127.0.0.1", true),
        ("127.0.0.0/8", "::127.0.0.1", false),
        ("127.0.0.0/8", "::1", false),
        ("169.254.169.254", "169.254.169.254", true),
        ("64:ff9b::/96", "64:ff9b::8.8.8.8", true),
        ("64:ff9b::/96", "64:ff9b::10.0.0.1", false),
        ("64:ff9b::/96 10.0.0.0/8", "64:ff9b::10.0.0.1", true),
        ("0.0.0.0/0", "127.0.0.1", true),
        ("0.0.0.0/0", "::1", false),
    ] {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(guard(allow).check(address).is_ok(), allowed, "{address} with {allow}");
    }
    assert!(guard("127.0.0.0/8").check_url("http://localhost:3000/").is_ok());
    assert!(guard("::1").check_url("http://app.localhost/").is_ok());
    assert!(guard("10.0.0.0/8").check_url("http://localhost/").is_err());
    assert!(parse_ranges("10.0.0.0/33").is_err());
    assert_eq!(parse_ranges(" ,").unwrap(), vec![]);
}

#[tokio::test]
async fn dialling_an_internal_host_is_refused_in_all_spellings() {
    // Not only what URLs can spell: other protocols hand their hosts over as they are, and the
    // system's resolver has its own ideas of numbers.
    for host in [
        "127.0.0.1",
        "[::1]",
        "::1",
        "::ffff:127.0.0.1",
        "[::ffff:10.0.0.1]",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "0",
        "localhost",
        "LOCALHOST.",
        "x.localhost",
        "64:ff9b::7f00:1",
        "169.254.169.254",
        "fe80::1",
    ] {
        match dial(host, 80, &Guard::default(), DialTimeouts::default()).await {
            Err(DialError::Blocked(denied)) => {
                let text = denied.to_string();
                assert!(!text.contains(&denied.address.to_string()), "{text} tells the address");
            }
            other => panic!("{host} gave {other:?}"),
        }
    }
}

#[tokio::test]
async fn allowed_hosts_resolve_to_checked_addresses() {
    let guard = guard("127.0.0.0/8");
    for (host, expected) in
        [("localhost", "127.0.0.1:80"), ("127.0.0.2", "127.0.0.2:80"), ("[::ffff:127.0.0.3]", "127.0.0.3:80")]
    {
        let addresses = guard.resolve_and_check(host, 80).await.unwrap();
        assert_eq!(addresses, vec![expected.parse().unwrap()], "{host}");
    }
    assert!(matches!(guard.resolve_and_check("", 80).await, Err(DialError::Dns(_))));
    assert!(matches!(
        guard.resolve_and_check("does-not-exist.invalid", 80).await,
        Err(DialError::Dns(_) | DialError::DnsTimeout)
    ));
}

#[tokio::test]
async fn secrets_go_without_tls_only_where_the_operator_allows_an_inner_address() {
    for (allow, url, expected) in [
        ("", "https://auth.example.com/token", true),
        ("", "http://93.184.216.34/token", false),
        ("0.0.0.0/0", "http://93.184.216.34/token", false),
        ("", "http://127.0.0.1:8080/token", false),
        ("127.0.0.0/8", "http://127.0.0.1:8080/token", true),
        ("127.0.0.0/8", "http://localhost/token", true),
        ("10.0.0.0/8", "http://10.1.2.3/token", true),
        ("10.0.0.0/8", "http://127.0.0.1/token", false),
        ("127.0.0.0/8", "http://does-not-exist.invalid/token", false),
    ] {
        assert_eq!(guard(allow).may_carry_secrets(&url.parse().unwrap()).await, expected, "{allow:?}: {url}");
    }
}
