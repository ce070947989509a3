//! Guarantee 20: each malicious host and each malicious image costs one dead letter.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use imgdex::testing::broker::headers;

use super::bombs::{self, gzipped_zeros};
use super::{mib, until_indexed};
use crate::support::decoders::{PeakMemory, resident_with_decoders};
use crate::support::dns::{NameServer, Reply};
use crate::support::flow::{Flow, sorted};
use crate::support::http::{Act, WebHost, answer, redirect, send};
use crate::support::poll;
use crate::support::rabbit::{body, text_header};
use crate::support::report::{report, scaled};

const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// Largest image file: small, so that endless bodies are refused soon.
const LARGEST: &str = "1048576";
/// The longest case takes five retries, in full runs after half a minute each.
const TIMEOUT: Duration = Duration::from_mins(6);

/// A message, and the reason of its dead letter.
type Case = (String, &'static str);

/// Addresses that no worker may reach, in many notations.
fn addresses() -> Vec<Case> {
    let hosts = [
        // The metadata service of clouds.
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0xa9.0xfe.0xa9.0xfe",
        "0251.0376.0251.0376",
        "169.254.43518",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[0:0:0:0:0:ffff:a9fe:a9fe]",
        "[::169.254.169.254]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
        "[2001:0:4136:e378:8000:63bf:5601:5601]",
        "[fe80::a9fe:a9fe]",
        "[2606:4700::5efe:169.254.169.254]",
        "169.254.169.254.",
        "%31%36%39.254.169.254",
        "\u{ff11}69.254.169.254",
        "169\u{3002}254\u{3002}169\u{3002}254",
        // Private and special networks.
        "10.0.0.1",
        "10.1",
        "0xa000001",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "192.168.1",
        "100.64.0.1",
        "0.0.0.0",
        "0",
        "192.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "[::]",
        "[::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fec0::1]",
        "[ff02::1]",
        "[2001:db8::1]",
        "[100::1]",
        "[3fff::1]",
        "[4000::1]",
    ];
    let urls = hosts.map(|host| format!("http://{host}/latest/meta-data/"));
    let others = [
        "https://169.254.169.254/",
        "http://user:secret@93.184.216.34/",
        "http://93.184.216.34:22/",
        "ftp://93.184.216.34/a.png",
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "gopher://127.0.0.1:6379/_INFO",
        "data:image/png;base64,iVBORw0KGgo=",
        "http://metadata.example/",
        "http://mapped.example/",
    ];
    urls.into_iter().chain(others.map(ToOwned::to_owned)).map(|url| (url, "refused_address")).collect()
}

/// Answers of malicious hosts, by the host name in their URLs.
fn answers() -> Vec<(&'static str, Vec<Act>, &'static str)> {
    let ok = |headers: &str, body: &[u8]| Act::Send(answer("200 OK", headers, body));
    let mut answers = vec![
        ("endless", vec![ok("", b""), Act::Endless(vec![7; 10_000])], "body_too_large"),
        (
            "endless-chunks",
            vec![ok("Transfer-Encoding: chunked\r\n", b""), Act::Endless(b"3\r\nabc\r\n".to_vec())],
            "body_too_large",
        ),
        ("announces-too-much", vec![ok("Content-Length: 99999999999\r\n", b"x"), Act::Stall], "body_too_large"),
        ("gzip-bomb", send("200 OK", "Content-Encoding: gzip\r\n", &gzipped_zeros(256 << 20)), "body_too_large"),
        ("unknown-encoding", send("200 OK", "Content-Encoding: br\r\n", b"image"), "not_an_image"),
        ("gzip-twice", send("200 OK", "Content-Encoding: gzip, gzip\r\n", b"image"), "not_an_image"),
        ("sends-more-than-it-says", vec![ok("Content-Length: 5\r\n", b"image and a smuggled answer")], "not_an_image"),
        ("redirects-to-metadata", redirect("http://169.254.169.254/latest/meta-data/"), "refused_address"),
        ("redirects-to-decimal-metadata", redirect("http://2852039166/"), "refused_address"),
        ("redirects-to-mapped-metadata", redirect("http://[::ffff:169.254.169.254]/"), "refused_address"),
        ("redirects-to-a-name-of-metadata", redirect("http://metadata.example/"), "refused_address"),
        ("redirects-to-a-file", redirect("file:///etc/passwd"), "refused_address"),
        ("redirects-to-another-port", redirect("http://127.0.0.1:22/"), "refused_address"),
        ("redirects-with-a-password", redirect("http://user:secret@127.0.0.1/"), "refused_address"),
        ("redirects-in-a-circle", redirect("/circle"), "refused_redirect"),
        ("redirects-to-nowhere", send("302 Found", "", b""), "refused_redirect"),
        ("redirects-to-nonsense", redirect("http://["), "refused_redirect"),
        ("client-error", send("400 Bad Request", "", b""), "host_refused"),
        ("missing", send("404 Not Found", "", b""), "host_refused"),
        ("part", send("206 Partial Content", "", b"x"), "host_refused"),
        ("server-error", send("500 Internal Server Error", "", b""), "host_failed"),
        ("announces-more-than-it-sends", vec![ok("Content-Length: 100\r\n", b"short")], "host_failed"),
        ("contradicts-itself", vec![ok("Content-Length: 5\r\nContent-Length: 6\r\n", b"image!")], "host_failed"),
        ("breaks-off", vec![ok("Content-Length: 100\r\n", b"half"), Act::Reset], "host_failed"),
        ("cut-gzip", send("200 OK", "Content-Encoding: gzip\r\n", &gzipped_zeros(1000)[..15]), "host_failed"),
        ("no-http", vec![Act::Send(b"220 ftp.example.com ready\r\n\r\n".to_vec())], "host_failed"),
        ("endless-headers", vec![Act::Endless(b"HTTP/1.1 200 OK\r\nX: ".to_vec())], "host_failed"),
        ("says-nothing", vec![], "host_failed"),
    ];
    if scaled(false, true) {
        let drip = |start: Act| vec![start, Act::Drip(vec![b'x'; 1000], Duration::from_millis(200))];
        answers.push(("stalls", vec![Act::Stall], "host_failed"));
        answers.push(("stalls-in-the-middle", vec![ok("Content-Length: 100\r\n", b"half"), Act::Stall], "host_failed"));
        answers.push(("drips-headers", drip(Act::Send(b"HTTP/1.1 200 OK\r\nX: ".to_vec())), "host_failed"));
        answers.push(("drips", drip(ok("", b"")), "host_failed"));
    }
    answers
}

/// A web server with all these host names and files.
async fn server(answers: Vec<(&'static str, Vec<Act>, &'static str)>, files: &[bombs::Bad]) -> WebHost {
    let hosts: BTreeMap<_, _> = answers.into_iter().map(|(name, acts, _)| (name.to_owned(), acts)).collect();
    let lie = "Content-Type: image/png\r\n";
    let files: BTreeMap<_, _> =
        files.iter().map(|bad| (format!("/{}", bad.what), send("200 OK", lie, &bad.bytes))).collect();
    WebHost::start(move |request| {
        let name = request.header("host").unwrap_or_default().split('.').next().unwrap_or_default();
        hosts.get(name).or_else(|| files.get(request.target())).cloned().unwrap_or_default()
    })
    .await
}

/// A name server for malicious hosts. One name has another address from the second look-up on.
async fn names() -> NameServer {
    NameServer::start(|name, before| match name {
        "metadata.example" => Reply::Addresses(vec![METADATA]),
        "mapped.example" => Reply::Addresses(vec![Ipv4Addr::new(10, 0, 0, 1), METADATA]),
        "rebinding.example" => Reply::Addresses(vec![if before == 0 { Ipv4Addr::LOCALHOST } else { METADATA }]),
        _ => Reply::NoSuchName,
    })
    .await
}

#[tokio::test]
async fn each_malicious_host_and_image_costs_one_dead_letter_and_nothing_else() {
    let (answers, files) = (answers(), bombs::all());
    let (flow, names, server) = (Flow::start().await, names().await, server(answers.clone(), &files).await);
    let good = flow.images.urls("good", scaled(100, 2_000));
    let rebinding = format!("http://rebinding.example:{}/good/0", flow.images.port());

    let mut hosts = addresses();
    hosts.extend(answers.iter().map(|(name, _, reason)| (server.url_as(name, "/"), *reason)));
    hosts.push(("http://gone.example/".to_owned(), "unknown_host"));
    let images: Vec<_> =
        files.iter().map(|bad| (server.url_as("images", &format!("/{}", bad.what)), bad.reason)).collect();
    let mut cases: BTreeMap<String, &str> = hosts.iter().chain(&images).cloned().collect();
    assert_eq!(cases.len(), hosts.len() + images.len(), "two cases are the same");

    let (port, name_server) = (server.port().to_string(), names.address.to_string());
    let limits =
        ["--model", "stub", "--allow-port", &port, "--name-server", &name_server, "--max-image-bytes", LARGEST];
    let mut worker = flow.worker_with(&limits).await;
    worker.until_ready().await;
    let before = resident_with_decoders(worker.pid());
    let memory = PeakMemory::of(worker.pid());
    // Looked up twice, with another answer the second time.
    flow.rabbit.publish(&rebinding).await;
    until_indexed(&worker, 1).await;
    cases.insert(format!("{rebinding}?again"), "refused_address");

    // Good images before, between and after the malicious ones.
    let mut good_ones = good.chunks(good.len().div_ceil(cases.len() + 1));
    for message in cases.keys() {
        flow.publish(good_ones.next().unwrap_or_default(), &[]).await;
        flow.rabbit.publish(message).await;
    }
    flow.publish(&good_ones.collect::<Vec<_>>().concat(), &[]).await;

    until_indexed(&worker, good.len() as u64 + 1).await;
    let dead = cases.len() as u64;
    poll::until_within("messages dead-lettered", TIMEOUT, async || match worker.scrape().await.outcome("dead") {
        found if found == dead => Ok(()),
        found => Err(format!("{found} of {dead}")),
    })
    .await;
    let letters = flow.rabbit.take_all(&flow.rabbit.dead(), dead as u32).await;
    let reason = |letter: &lapin::message::Delivery| text_header(&letter.properties, headers::REASON).unwrap();
    let found: BTreeMap<_, _> = letters.iter().map(|letter| (body(letter), reason(letter))).collect();
    assert_eq!(found.len(), letters.len(), "a message has two dead letters");
    for (message, reason) in &cases {
        assert_eq!(found.get(message).map(String::as_str), Some(*reason), "{message}");
    }
    assert_eq!(flow.indexed_urls().await, sorted(good.iter().chain([&rebinding]).cloned().collect()));

    let scrape = worker.scrape().await;
    assert_eq!((scrape.value("inflight_messages", &[]), scrape.value("inflight_bytes", &[])), (0, 0));
    assert_eq!((worker.get("/live").await.0, worker.ready().await.0), (200, 200));
    let peak = memory.bytes() - before;
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
    report(
        20,
        format!(
            "{} malicious hosts refused, {} malicious images refused, one dead letter each with the right reason; {} good images \
             among them, all indexed by the same process, which took {} MiB for it",
            hosts.len() + 1,
            images.len(),
            good.len() + 1,
            mib(peak)
        ),
    );
}
