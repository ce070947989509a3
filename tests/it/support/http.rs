//! A scripted web server, for hosts that misbehave. Each connection carries one request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use url::Url;

/// A step of the host's answer. After the last one the connection is closed.
#[derive(Clone)]
pub enum Act {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends these bytes one by one, with a pause after each.
    Drip(Vec<u8>, Duration),
    /// Sends these bytes again and again until the client leaves.
    Endless(Vec<u8>),
    /// Sends nothing until the client leaves.
    Stall,
    /// Sends nothing until this is true.
    Await(watch::Receiver<bool>),
    /// Resets the connection.
    Reset,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// How many came before it.
    pub number: usize,
    /// The request line and the headers.
    pub head: String,
}

impl Request {
    /// The path with the query.
    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A running host.
pub struct WebHost {
    address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
    requests: Mutex<Vec<Request>>,
}

impl WebHost {
    /// Starts on a free port of 127.0.0.1.
    pub async fn start(script: impl Fn(&Request) -> Vec<Act> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, script) = (Arc::<Seen>::default(), Arc::new(script));
        let host = Self { address, seen: Arc::clone(&seen) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                seen.connections.fetch_add(1, Ordering::SeqCst);
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                tokio::spawn(async move {
                    let most = seen.now.fetch_add(1, Ordering::SeqCst) + 1;
                    seen.most.fetch_max(most, Ordering::SeqCst);
                    // Clients may leave before their answer.
                    let _ = serve(stream, &seen, &*script).await;
                    seen.now.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// A URL of this host.
    pub fn url(&self, path: &str) -> Url {
        Url::parse(&format!("http://{}{path}", self.address)).unwrap()
    }

    /// A URL of this host under another name: all names below `localhost` are this machine.
    pub fn url_as(&self, name: &str, path: &str) -> String {
        format!("http://{name}.localhost:{}{path}", self.port())
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// How many connections are open at this moment.
    pub fn open(&self) -> usize {
        self.seen.now.load(Ordering::SeqCst)
    }

    /// The most connections that were open at once.
    pub fn most_at_once(&self) -> usize {
        self.seen.most.load(Ordering::SeqCst)
    }
}

/// An answer with a status line, headers (each ending in CRLF) and a body. The body ends with the connection unless a header
/// says otherwise.
pub fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// A whole answer, as a script.
pub fn send(status: &str, headers: &str, body: &[u8]) -> Vec<Act> {
    let headers = format!("{headers}Content-Length: {}\r\n", body.len());
    vec![Act::Send(answer(status, &headers, body))]
}

/// A redirect, as a script.
pub fn redirect(location: &str) -> Vec<Act> {
    send("302 Found", &format!("Location: {location}\r\n"), b"")
}

async fn serve(
    mut stream: TcpStream,
    seen: &Seen,
    script: &(dyn Fn(&Request) -> Vec<Act> + Send + Sync),
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let request = {
        let mut requests = seen.requests.lock().unwrap();
        let head = String::from_utf8_lossy(&head).into_owned();
        let request = Request { number: requests.len(), head };
        requests.push(request.clone());
        request
    };
    for act in script(&request) {
        match act {
            Act::Send(bytes) => stream.write_all(&bytes).await?,
            Act::Drip(bytes, pause) => {
                for byte in bytes {
                    stream.write_all(&[byte]).await?;
                    tokio::time::sleep(pause).await;
                }
            }
            Act::Endless(bytes) => loop {
                stream.write_all(&bytes).await?;
            },
            Act::Stall => while stream.read(&mut [0; 64]).await? > 0 {},
            Act::Await(mut opened) => tokio::select! {
                // An error says that the sender is dropped.
                _ = opened.wait_for(|open| *open) => {}
                // After its request, a client sends nothing more: this is its end.
                _ = stream.read_u8() => return Ok(()),
            },
            Act::Reset => {
                stream.set_zero_linger()?;
                return Ok(());
            }
        }
    }
    stream.shutdown().await
}
