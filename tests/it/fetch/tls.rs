//! TLS: an own certificate authority, and no redirect back to plain http.

use std::path::PathBuf;
use std::sync::Arc;

use imgdex::testing::Metrics;
use imgdex::testing::fetch::{Error, Fetcher, NoAnswer, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use url::Url;

use super::{Subject, reaching};
use crate::support::http::{WebHost, answer, redirect, send};

/// A host with a self-signed certificate, which answers every request with the same bytes.
struct TlsHost {
    port: u16,
    _folder: tempfile::TempDir,
    ca_file: PathBuf,
}

impl TlsHost {
    async fn start(reply: Vec<u8>) -> Self {
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, made.cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.into()], key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that does not trust the certificate breaks off here.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(&reply).await;
                let _ = stream.shutdown().await;
            }
        });
        Self { port, _folder: folder, ca_file }
    }

    fn url(&self) -> Url {
        Url::parse(&format!("https://127.0.0.1:{}/", self.port)).unwrap()
    }

    fn trusting(&self, also: &[&WebHost]) -> Settings {
        let mut settings = Settings { ca_file: Some(self.ca_file.clone()), ..reaching(also) };
        settings.allow_ports.push(self.port);
        settings
    }
}

fn image() -> Vec<u8> {
    answer("200 OK", "Content-Length: 5\r\n", b"image")
}

#[tokio::test]
async fn a_certificate_is_trusted_only_with_its_authority() {
    let host = TlsHost::start(image()).await;
    let settings = host.trusting(&[]);
    let without_authority = Subject::new(Settings { ca_file: None, ..settings.clone() });
    match without_authority.error(&host.url()).await {
        Error::NoAnswer(NoAnswer::Connect { reason, .. }) => assert!(reason.contains("certificate"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(&Subject::new(settings).get(&host.url()).await.unwrap()[..], b"image");
}

#[tokio::test]
async fn redirects_may_lead_to_https_and_not_back() {
    let plain = WebHost::start(|_| send("200 OK", "", b"image")).await;
    let back = TlsHost::start(answer("302 Found", &format!("Location: {}\r\n", plain.url("/")), b"")).await;
    let error = Subject::new(back.trusting(&[&plain])).error(&back.url()).await;
    assert!(matches!(&error, Error::Redirect { reason } if reason.contains("https to http")), "{error:?}");
    assert_eq!(plain.connections(), 0);

    let secure = TlsHost::start(image()).await;
    let target = secure.url();
    let plain = WebHost::start(move |_| redirect(target.as_str())).await;
    assert_eq!(&Subject::new(secure.trusting(&[&plain])).get(&plain.url("/")).await.unwrap()[..], b"image");
}

#[tokio::test]
async fn an_unusable_authority_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "no certificate").unwrap();
    for path in [empty, folder.path().join("missing.pem")] {
        let settings = Settings { ca_file: Some(path.clone()), ..Settings::default() };
        let result = Fetcher::new(&settings, Arc::new(Metrics::new("test", "test").unwrap()));
        let error = result.err().expect("an unusable authority");
        assert!(matches!(error, Error::Setup { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}
