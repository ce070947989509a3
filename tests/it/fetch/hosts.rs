//! Hosts that are slow, lie, break off or send too much.

use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::future::join_all;
use imgdex::testing::fetch::{Error, NoAnswer, Refusal, Settings, Timeouts};

use super::{PATIENT, SHORT, Subject, reaching};
use crate::support::http::{Act, WebHost, answer, send};

const PAUSE: Duration = Duration::from_millis(20);

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_body_comes_whole_and_counts_as_held_until_it_is_dropped() {
    let host = WebHost::start(|_| send("200 OK", "", b"image")).await;
    let subject = Subject::new(reaching(&[&host]));
    let bytes = subject.get(&host.url("/a.png?size=1#top")).await.unwrap();
    assert_eq!(&bytes[..], b"image");
    let part = bytes.slice(1..3);
    drop(bytes);
    assert_eq!((subject.metric("inflight_bytes"), subject.metric("fetch_bytes_total")), (5, 5));
    drop(part);
    assert_eq!(subject.metric("inflight_bytes"), 0);
    let request = &host.requests()[0];
    assert_eq!(request.target(), "/a.png?size=1");
    assert_eq!(request.header("user-agent"), Some(concat!("imgdex/", env!("CARGO_PKG_VERSION"))));
    assert!(request.header("accept").unwrap().starts_with("image/"));
    for name in ["cookie", "referer", "authorization"] {
        assert_eq!(request.header(name), None);
    }
}

#[tokio::test]
async fn a_cookie_is_not_kept() {
    let host = WebHost::start(|_| send("200 OK", "Set-Cookie: id=1; Path=/\r\n", b"x")).await;
    let subject = Subject::new(reaching(&[&host]));
    for _ in 0..2 {
        subject.get(&host.url("/")).await.unwrap();
    }
    assert_eq!(host.requests()[1].header("cookie"), None);
}

#[tokio::test]
async fn loopback_is_refused_before_any_connection() {
    let host = WebHost::start(|_| send("200 OK", "", b"x")).await;
    let settings = Settings { allow_ports: vec![host.port()], ..Settings::default() };
    let error = Subject::new(settings).error(&host.url("/?token=secret")).await;
    assert!(matches!(error, Error::Refused(Refusal::Address { class: "a loopback address", .. })), "{error:?}");
    assert_eq!(host.connections(), 0);
}

#[tokio::test]
async fn each_phase_has_its_own_limit() {
    let short = |change: fn(&mut Timeouts)| {
        let mut timeouts = PATIENT;
        change(&mut timeouts);
        timeouts
    };
    let cases: [(&str, Timeouts, Vec<Act>); 5] = [
        ("answer", short(|t| t.headers = SHORT), vec![Act::Stall]),
        ("answer", short(|t| t.headers = SHORT), vec![Act::Drip(vec![b'H'; 1000], PAUSE)]),
        (
            "further data",
            short(|t| t.idle = SHORT),
            vec![Act::Send(answer("200 OK", "Content-Length: 9\r\n", b"x")), Act::Stall],
        ),
        (
            "complete image",
            short(|t| t.total = SHORT),
            vec![Act::Send(answer("200 OK", "", b"")), Act::Drip(vec![b'x'; 1000], PAUSE)],
        ),
        ("complete image", short(|t| t.total = SHORT), vec![Act::Stall]),
    ];
    for (expected, timeouts, acts) in cases {
        let host = WebHost::start(move |_| acts.clone()).await;
        let subject = Subject::new(Settings { timeouts, ..reaching(&[&host]) });
        let error = subject.error(&host.url("/?key=secret")).await;
        assert!(
            matches!(error, Error::NoAnswer(NoAnswer::Timeout { phase, limit, .. }) if phase == expected && limit == SHORT),
            "{expected}: {error:?}"
        );
        assert_eq!(host.requests().len(), 1, "a slow host is not tried again at once");
    }
}

#[tokio::test]
async fn a_stalled_tls_handshake_is_a_time_out_of_the_connection() {
    let host = WebHost::start(|_| vec![Act::Stall]).await;
    let timeouts = Timeouts { connect: SHORT, ..PATIENT };
    let subject = Subject::new(Settings { timeouts, ..reaching(&[&host]) });
    let mut url = host.url("/");
    url.set_scheme("https").unwrap();
    let error = subject.error(&url).await;
    assert!(matches!(error, Error::NoAnswer(NoAnswer::Timeout { phase: "connection", .. })), "{error:?}");
}

#[tokio::test]
async fn a_refused_connection_is_tried_twice() {
    // Bound and not listening: connections are refused, and no other process gets the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    let subject = Subject::new(Settings { allow_ports: vec![port], ..reaching(&[]) });
    let error = subject.error(&format!("http://127.0.0.1:{port}/?key=secret").parse().unwrap()).await;
    assert!(matches!(error, Error::NoAnswer(NoAnswer::Connect { .. })), "{error:?}");
    assert_eq!(subject.metric("retries_total{cause=\"fetch_connect\"}"), 1);
}

#[tokio::test]
async fn a_body_may_be_as_large_as_the_limit_and_no_larger() {
    let host = WebHost::start(|request| match request.target() {
        "/fits" => send("200 OK", "", &[1; 1000]),
        "/announced" => vec![Act::Send(answer("200 OK", "Content-Length: 1001\r\n", b"")), Act::Stall],
        "/unannounced" => vec![Act::Send(answer("200 OK", "", &[1; 1001])), Act::Stall],
        "/chunked" => {
            let chunk = [b"3e9\r\n".as_slice(), &[1; 1001], b"\r\n"].concat();
            vec![Act::Send(answer("200 OK", "Transfer-Encoding: chunked\r\n", &chunk)), Act::Stall]
        }
        _ => vec![Act::Send(answer("200 OK", "", b"")), Act::Endless(vec![1; 100])],
    })
    .await;
    let subject = Subject::new(Settings { max_bytes: 1000, ..reaching(&[&host]) });
    assert_eq!(subject.get(&host.url("/fits")).await.unwrap().len(), 1000);
    for path in ["/announced", "/unannounced", "/chunked", "/endless"] {
        let error = subject.error(&host.url(path)).await;
        assert!(matches!(error, Error::TooLarge { limit: 1000 }), "{path}: {error:?}");
    }
}

#[tokio::test]
async fn a_wrong_content_length_is_cut_or_refused() {
    let host = WebHost::start(|request| match request.target() {
        "/promises-more" => vec![Act::Send(answer("200 OK", "Content-Length: 100\r\n", b"short"))],
        "/sends-more" => vec![Act::Send(answer("200 OK", "Content-Length: 5\r\n", b"image and a smuggled answer"))],
        _ => vec![Act::Send(answer("200 OK", "Content-Length: 5\r\nContent-Length: 6\r\n", b"image!"))],
    })
    .await;
    let subject = Subject::new(reaching(&[&host]));
    for path in ["/promises-more", "/contradicts-itself"] {
        let error = subject.error(&host.url(path)).await;
        assert!(matches!(error, Error::NoAnswer(NoAnswer::Broken { .. })), "{path}: {error:?}");
    }
    assert_eq!(&subject.get(&host.url("/sends-more")).await.unwrap()[..], b"image");
}

#[tokio::test]
async fn compressed_bodies_are_limited_by_what_they_unpack_to() {
    let bomb = gzip(&vec![0; 64 << 20]);
    assert!(bomb.len() < 100_000);
    let host = WebHost::start(move |request| match request.target() {
        "/image" => send("200 OK", "Content-Encoding: gzip\r\n", &gzip(b"image")),
        "/plain" => send("200 OK", "Content-Encoding: identity\r\n", b"image"),
        "/cut" => send("200 OK", "Content-Encoding: gzip\r\n", &gzip(&[7; 1000])[..20]),
        "/lie" => send("200 OK", "Content-Encoding: gzip\r\n", b"not gzip"),
        "/brotli" => send("200 OK", "Content-Encoding: br\r\n", b"image"),
        "/twice" => send("200 OK", "Content-Encoding: gzip, gzip\r\n", &gzip(&gzip(b"image"))),
        _ => send("200 OK", "Content-Encoding: gzip\r\n", &bomb),
    })
    .await;
    let subject = Subject::new(Settings { max_bytes: 1 << 20, ..reaching(&[&host]) });
    for path in ["/image", "/plain"] {
        assert_eq!(&subject.get(&host.url(path)).await.unwrap()[..], b"image", "{path}");
    }
    let error = subject.error(&host.url("/bomb")).await;
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    for path in ["/cut", "/lie"] {
        let error = subject.error(&host.url(path)).await;
        assert!(matches!(error, Error::NoAnswer(NoAnswer::Broken { .. })), "{path}: {error:?}");
    }
    for (path, expected) in [("/brotli", "br"), ("/twice", "gzip, gzip")] {
        let error = subject.error(&host.url(path)).await;
        assert!(matches!(&error, Error::Encoding { encoding } if encoding == expected), "{path}: {error:?}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_a_broken_transfer() {
    let huge = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(4 << 20)).into_bytes();
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(1000)).into_bytes();
    let cases: [Vec<Act>; 6] = [
        vec![Act::Send(b"220 ftp.example.com ready\r\n\r\n".to_vec())],
        vec![Act::Send(b"HTTP/0.9 nonsense\r\n\r\n".to_vec())],
        vec![Act::Send(huge)],
        vec![Act::Send(many)],
        vec![Act::Endless(b"HTTP/1.1 200 OK\r\nX: ".to_vec())],
        vec![],
    ];
    for acts in cases {
        let host = WebHost::start(move |_| acts.clone()).await;
        let error = Subject::new(reaching(&[&host])).error(&host.url("/?key=secret")).await;
        assert!(matches!(error, Error::NoAnswer(NoAnswer::Broken { .. })), "{error:?}");
    }
}

#[tokio::test]
async fn a_reset_is_tried_again_once() {
    let cut = || vec![Act::Send(answer("200 OK", "Content-Length: 100\r\n", b"half")), Act::Reset];
    let host = WebHost::start(move |request| match (request.target(), request.number) {
        ("/recovers", n) if n > 0 => send("200 OK", "", b"image"),
        _ => cut(),
    })
    .await;
    let subject = Subject::new(reaching(&[&host]));
    assert_eq!(&subject.get(&host.url("/recovers")).await.unwrap()[..], b"image");
    assert_eq!((host.requests().len(), subject.metric("retries_total{cause=\"fetch_broken\"}")), (2, 1));
    let error = subject.error(&host.url("/never")).await;
    assert!(matches!(error, Error::NoAnswer(NoAnswer::Broken { .. })), "{error:?}");
    assert_eq!(host.requests().len(), 4);
}

#[tokio::test]
async fn each_status_says_whether_it_is_tried_again() {
    // Status, Retry-After, requests made, `retry_after` of the error.
    let cases = [
        ("404 Not Found", "", 1, None),
        ("403 Forbidden", "", 1, None),
        ("410 Gone", "", 1, None),
        ("204 No Content", "", 1, None),
        ("206 Partial Content", "", 1, None),
        ("304 Not Modified", "", 1, None),
        ("300 Multiple Choices", "Location: /x\r\n", 1, None),
        ("503 Service Unavailable", "", 2, None),
        ("500 Internal Server Error", "Retry-After: 0\r\n", 2, Some(0)),
        ("429 Too Many Requests", "Retry-After: 7\r\n", 1, Some(7)),
        ("503 Service Unavailable", "Retry-After: 86400\r\n", 1, Some(600)),
        ("429 Too Many Requests", "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n", 1, Some(600)),
        ("429 Too Many Requests", "Retry-After: soon\r\n", 2, None),
    ];
    for (line, header, requests, expected) in cases {
        let host = WebHost::start(move |_| send(line, header, b"")).await;
        let error = Subject::new(reaching(&[&host])).error(&host.url("/?key=secret")).await;
        let Error::Status { status, retry_after, .. } = error else { panic!("{line}: {error:?}") };
        assert_eq!(status.to_string(), line[..3]);
        assert_eq!(retry_after, expected.map(Duration::from_secs), "{line} {header}");
        assert_eq!(host.requests().len(), requests, "{line} {header}");
    }
}

#[tokio::test]
async fn a_short_retry_after_is_waited_out() {
    let host = WebHost::start(|request| match request.number {
        0 => send("429 Too Many Requests", "Retry-After: 1\r\n", b""),
        _ => send("200 OK", "", b"image"),
    })
    .await;
    let subject = Subject::new(reaching(&[&host]));
    let start = std::time::Instant::now();
    assert_eq!(&subject.get(&host.url("/")).await.unwrap()[..], b"image");
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(subject.metric("retries_total{cause=\"fetch_status\"}"), 1);
}

#[tokio::test]
async fn requests_to_a_host_at_once_are_limited() {
    let host =
        WebHost::start(|_| vec![Act::Send(answer("200 OK", "", b"")), Act::Drip(vec![b'x'; 10], PAUSE / 4)]).await;
    let subject = Subject::new(Settings { per_host: 2, ..reaching(&[&host]) });
    let url = host.url("/");
    for result in join_all((0..10).map(|_| subject.get(&url))).await {
        assert_eq!(result.unwrap().len(), 10);
    }
    assert_eq!((host.requests().len(), host.most_at_once()), (10, 2));
}

#[tokio::test]
async fn a_slow_host_delays_no_other_host() {
    let slow = WebHost::start(|_| vec![Act::Stall]).await;
    let quick = WebHost::start(|_| send("200 OK", "", b"image")).await;
    // The limit is per host name, and the two have different names.
    let settings = Settings { per_host: 1, concurrency: 2, ..reaching(&[&slow, &quick]) };
    let subject = Subject::new(Settings { allow_nets: vec!["127.0.0.0/8".parse().unwrap()], ..settings });
    let slow = slow.url("/");
    let quick = format!("http://127.0.0.2:{}/", quick.port()).parse().unwrap();
    tokio::select! {
        _ = join_all((0..20).map(|_| subject.get(&slow))) => panic!("the slow host answered"),
        result = subject.get(&quick) => match result {
            // 127.0.0.2 reaches no listener on 127.0.0.1: the refusal shows that the request was made.
            Err(Error::NoAnswer(NoAnswer::Connect { .. })) => {}
            other => panic!("{other:?}"),
        },
    }
}

#[tokio::test]
async fn a_proxy_in_the_environment_is_not_used() {
    const INSIDE: &str = "IMGDEX_TEST_PROXIED_URL";
    if let Ok(url) = std::env::var(INSIDE) {
        let url: url::Url = url.parse().unwrap();
        let settings = Settings { allow_ports: vec![url.port().unwrap()], ..reaching(&[]) };
        assert_eq!(&Subject::new(settings).get(&url).await.unwrap()[..], b"image");
        return;
    }
    let host = WebHost::start(|_| send("200 OK", "", b"image")).await;
    let proxy = WebHost::start(|_| send("200 OK", "", b"proxied")).await;
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "fetch::hosts::a_proxy_in_the_environment_is_not_used"]).env(INSIDE, host.url("/").as_str());
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        child.env(name, proxy.url("/").as_str());
    }
    child.env_remove("NO_PROXY").env_remove("no_proxy");
    let output = tokio::task::spawn_blocking(move || child.output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!((host.requests().len(), proxy.connections()), (1, 0));
}
