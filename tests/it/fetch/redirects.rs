//! Redirects, and the credentials and headers that are sent with them.

use std::collections::HashMap;

use imgdex::testing::fetch::{Error, Refusal, Settings};
use secrecy::SecretString;

use super::{Subject, reaching};
use crate::support::http::{WebHost, redirect, send};

#[tokio::test]
async fn five_are_followed_and_a_sixth_is_not() {
    // /N redirects N more times.
    let host = WebHost::start(|request| match request.target() {
        "/0" => send("200 OK", "", b"image"),
        target => redirect(&format!("{}", target[1..].parse::<u32>().unwrap() - 1)),
    })
    .await;
    let subject = Subject::new(reaching(&[&host]));
    assert_eq!(&subject.get(&host.url("/5")).await.unwrap()[..], b"image");
    assert_eq!(host.requests().len(), 6);
    let error = subject.error(&host.url("/6")).await;
    assert!(matches!(&error, Error::Redirect { reason } if reason.contains("more than 5")), "{error:?}");
}

#[tokio::test]
async fn every_kind_of_redirect_is_followed() {
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
        let host = WebHost::start(move |request| match request.target() {
            "/there" => send("200 OK", "", b"image"),
            _ => send(status, "Location: /there\r\n", b"moved"),
        })
        .await;
        assert_eq!(&Subject::new(reaching(&[&host])).get(&host.url("/")).await.unwrap()[..], b"image", "{status}");
        assert_eq!(host.requests()[1].header("referer"), None);
    }
}

#[tokio::test]
async fn circles_and_redirects_to_nowhere_are_refused() {
    let host = WebHost::start(|request| match request.target() {
        "/self" => redirect("/self?"),
        "/self?" => redirect("/self"),
        "/missing" => send("302 Found", "", b""),
        _ => redirect("http://[secret"),
    })
    .await;
    let subject = Subject::new(reaching(&[&host]));
    for (path, expected) in [("/self", "circle"), ("/missing", "without a target"), ("/nonsense", "not a URL")] {
        let error = subject.error(&host.url(path)).await;
        assert!(matches!(&error, Error::Redirect { reason } if reason.contains(expected)), "{path}: {error:?}");
    }
}

#[tokio::test]
async fn every_hop_passes_the_guard() {
    let host = WebHost::start(|request| redirect(request.target().strip_prefix("/?").unwrap())).await;
    // Local files are allowed here, to see that a redirect still cannot name one.
    let subject =
        Subject::new(Settings { local_files: true, deny_hosts: vec!["denied.example".into()], ..reaching(&[&host]) });
    let refusal = async |target: &str| subject.error(&host.url(&format!("/?{target}"))).await;
    for target in ["http://169.254.169.254/latest/", "http://[::1]/", "//127.0.0.2/", "http://0x0a000001/"] {
        let error = refusal(target).await;
        assert!(matches!(error, Error::Refused(Refusal::Address { .. })), "{target}: {error:?}");
    }
    assert!(matches!(refusal("file:///etc/passwd").await, Error::Refused(Refusal::Scheme { .. })));
    assert!(matches!(refusal("http://user:secret@example.com/").await, Error::Refused(Refusal::UserInfo)));
    assert!(matches!(refusal("http://127.0.0.1:1/").await, Error::Refused(Refusal::Port { port: 1 })));
    assert!(matches!(refusal("https://x.denied.example/").await, Error::Refused(Refusal::Host { .. })));
}

#[tokio::test]
async fn credentials_stay_with_their_host() {
    let elsewhere = WebHost::start(|_| send("200 OK", "", b"image")).await;
    let away = elsewhere.url("/away").to_string();
    let host = WebHost::start(move |request| match request.target() {
        "/leaves" => redirect(&away),
        "/stays" => redirect("/image"),
        _ => send("200 OK", "", b"image"),
    })
    .await;
    let secret = || SecretString::from("Bearer secret");
    let home = format!("http://127.0.0.1:{}", host.port());
    // The other host has a credential too, which must not be sent after a redirect.
    let host_auth = HashMap::from([(home, secret()), (elsewhere.url("").to_string(), secret())]);
    let subject = Subject::new(Settings { host_auth, ..reaching(&[&host, &elsewhere]) });
    for path in ["/stays", "/leaves"] {
        subject.get(&host.url(path)).await.unwrap();
    }
    let sent: Vec<_> = host.requests().iter().map(|request| request.header("authorization").is_some()).collect();
    assert_eq!(sent, [true, true, true]);
    assert_eq!(elsewhere.requests()[0].header("authorization"), None);
    subject.get(&elsewhere.url("/direct")).await.unwrap();
    assert_eq!(elsewhere.requests()[1].header("authorization"), Some("Bearer secret"));
}
