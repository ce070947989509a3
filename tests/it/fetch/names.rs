//! Names: the guard checks the resolved address at the moment of connecting.

use std::net::Ipv4Addr;

use imgdex::testing::fetch::{Error, NoAnswer, Refusal, Settings, Timeouts};
use url::Url;

use super::{PATIENT, SHORT, Subject, reaching};
use crate::support::dns::{NameServer, Reply};
use crate::support::http::{WebHost, send};

const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

fn url(name: &str, host: &WebHost) -> Url {
    Url::parse(&format!("http://{name}:{}/?key=secret", host.port())).unwrap()
}

async fn image_host() -> WebHost {
    WebHost::start(|_| send("200 OK", "", b"image")).await
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_checked_again() {
    let host = image_host().await;
    let names =
        NameServer::start(|_, before| Reply::Addresses(vec![if before == 0 { Ipv4Addr::LOCALHOST } else { METADATA }]))
            .await;
    let subject = Subject::new(Settings { name_servers: vec![names.address], ..reaching(&[&host]) });
    let url = url("rebinding.example", &host);
    assert_eq!(&subject.get(&url).await.unwrap()[..], b"image");
    match subject.error(&url).await {
        Error::Refused(Refusal::Address { host, address, class }) => {
            assert_eq!((host.as_str(), address, class), ("rebinding.example", METADATA.into(), "a link-local address"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((names.asked("rebinding.example"), host.connections()), (2, 1));
}

#[tokio::test]
async fn refused_addresses_among_others_are_left_out() {
    let host = image_host().await;
    let names = NameServer::start(|_, _| Reply::Addresses(vec![METADATA, Ipv4Addr::LOCALHOST])).await;
    let subject = Subject::new(Settings { name_servers: vec![names.address], ..reaching(&[&host]) });
    assert_eq!(&subject.get(&url("mixed.example", &host)).await.unwrap()[..], b"image");
}

#[tokio::test]
async fn an_unknown_name_is_another_error_than_a_failing_name_server() {
    let host = image_host().await;
    let names = NameServer::start(|name, _| match name {
        "gone.example" => Reply::NoSuchName,
        "failing.example" => Reply::Failure,
        "silent.example" => Reply::Silence,
        _ => Reply::Addresses(Vec::new()),
    })
    .await;
    let timeouts = Timeouts { connect: SHORT, ..PATIENT };
    let subject = Subject::new(Settings { name_servers: vec![names.address], timeouts, ..reaching(&[&host]) });
    let error = subject.error(&url("gone.example", &host)).await;
    assert!(matches!(&error, Error::UnknownHost { host } if host == "gone.example"), "{error:?}");
    assert_eq!(names.asked("gone.example"), 1, "a definite answer is not asked for again");
    for name in ["failing.example", "silent.example", "empty.example"] {
        let error = subject.error(&url(name, &host)).await;
        assert!(matches!(&error, Error::NoAnswer(NoAnswer::Resolve { host, .. }) if host == name), "{name}: {error:?}");
    }
    assert_eq!(subject.metric("retries_total{cause=\"fetch_resolve\"}"), 3);
}

#[tokio::test]
async fn localhost_is_loopback_with_any_name_server() {
    let host = image_host().await;
    let names = NameServer::start(|_, _| Reply::NoSuchName).await;
    let settings = Settings { name_servers: vec![names.address], ..reaching(&[&host]) };
    let subject = Subject::new(Settings { allow_nets: Vec::new(), ..settings.clone() });
    for name in ["localhost", "LOCALHOST.", "images.localhost"] {
        let error = subject.error(&url(name, &host)).await;
        assert!(
            matches!(error, Error::Refused(Refusal::Address { class: "a loopback address", .. })),
            "{name}: {error:?}"
        );
    }
    assert_eq!(host.connections(), 0);
    assert_eq!(&Subject::new(settings).get(&url("localhost", &host)).await.unwrap()[..], b"image");
}
