//! A proxy in front of the real Elasticsearch, which holds requests and answers, answers with errors, or refuses connections.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use reqwest::Client;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::poll;

/// A request of a client.
pub struct Request {
    /// How many bulk requests came before it.
    pub bulks_before: usize,
    /// `GET`, `POST` and so on.
    pub method: String,
    /// The path with the query.
    pub target: String,
    /// The body.
    pub body: Vec<u8>,
}

/// What the proxy does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// Passes it to Elasticsearch, and the answer to the client.
    Forward,
    /// Passes it to Elasticsearch when the test releases it, even if its client has gone by then.
    HoldRequest,
    /// Passes it to Elasticsearch, and holds the answer until the test releases it.
    HoldAnswer,
    /// Answers with this status. Elasticsearch does not see the request.
    Status(u16),
}

type Script = dyn Fn(&Request) -> Handling + Send + Sync;

/// The running proxy. It starts by forwarding everything.
pub struct Proxy {
    state: Arc<State>,
    address: SocketAddr,
    /// Bound, but never listening: keeps the port while the proxy refuses connections.
    _port: TcpSocket,
    /// Cancelled when the proxy goes down. Behind a lock, so that tests need no `mut`.
    up: Mutex<CancellationToken>,
}

struct State {
    /// The real server.
    server: String,
    client: Client,
    script: Mutex<Arc<Script>>,
    bulks: AtomicUsize,
    /// How many requests are held at this moment.
    held: watch::Sender<usize>,
    /// How often the held requests were released or dropped, and whether it was a release the last time.
    releases: watch::Sender<(usize, bool)>,
}

impl Proxy {
    /// Starts on a free port of 127.0.0.1, in front of this server.
    pub fn start(server: String) -> Self {
        let port = bind(SocketAddr::from(([127, 0, 0, 1], 0)));
        let state = State {
            server,
            client: Client::new(),
            script: Mutex::new(Arc::new(|_: &Request| Handling::Forward)),
            bulks: AtomicUsize::new(0),
            held: watch::Sender::new(0),
            releases: watch::Sender::new((0, true)),
        };
        let (state, address) = (Arc::new(state), port.local_addr().unwrap());
        let proxy = Self { state, address, _port: port, up: Mutex::default() };
        proxy.up();
        proxy
    }

    /// The address of an alias behind the proxy.
    pub fn store(&self, alias: &str) -> String {
        format!("http://{}/{alias}", self.address)
    }

    /// Decides about each request from now on.
    pub fn script(&self, script: impl Fn(&Request) -> Handling + Send + Sync + 'static) {
        *self.state.script.lock().unwrap() = Arc::new(script);
    }

    /// Decides about all bulk requests from now on. Other requests are forwarded.
    pub fn handle_bulks(&self, handling: Handling) {
        self.script(move |request| if request.is_bulk() { handling } else { Handling::Forward });
    }

    /// How many bulk requests came so far.
    pub fn bulks(&self) -> usize {
        self.state.bulks.load(Ordering::SeqCst)
    }

    /// Waits until a request or an answer is held.
    pub async fn until_held(&self) {
        let mut held = self.state.held.subscribe();
        poll::soon("a held request", held.wait_for(|held| *held > 0)).await.unwrap();
    }

    /// Releases what is held, and waits until nothing is. Later requests are held again if the script says so.
    pub async fn release(&self) {
        self.state.releases.send_modify(|(count, released)| (*count, *released) = (*count + 1, true));
        let mut held = self.state.held.subscribe();
        poll::soon("no held request", held.wait_for(|held| *held == 0)).await.unwrap();
    }

    /// Drops what is held and closes its connections, as if it were lost on the way.
    pub fn drop_held(&self) {
        self.state.releases.send_modify(|(count, released)| (*count, *released) = (*count + 1, false));
    }

    /// Resets every connection, and refuses new ones until [`Self::up`].
    pub fn down(&self) {
        self.up.lock().unwrap().cancel();
    }

    /// Accepts connections again.
    pub fn up(&self) {
        let listener = bind(self.address).listen(128).unwrap();
        let up = CancellationToken::new();
        *self.up.lock().unwrap() = up.clone();
        let accepting = accept(listener, Arc::clone(&self.state), up.clone());
        tokio::spawn(async move { up.run_until_cancelled(accepting).await });
    }
}

impl Request {
    /// Whether it is a bulk request.
    pub fn is_bulk(&self) -> bool {
        self.target.split('?').next().is_some_and(|path| path.ends_with("/_bulk"))
    }
}

fn bind(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    // A port that is bound already, but not listened on, can be listened on.
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

async fn accept(listener: TcpListener, state: Arc<State>, up: CancellationToken) {
    while let Ok((stream, _)) = listener.accept().await {
        let (state, up) = (Arc::clone(&state), up.clone());
        tokio::spawn(async move {
            let mut stream = BufStream::new(stream);
            // Clients may leave before their answer.
            if up.run_until_cancelled(state.serve(&mut stream)).await.is_none() {
                let _ = stream.get_ref().set_zero_linger();
            }
        });
    }
}

impl State {
    /// One request and its answer; each connection carries one.
    async fn serve(&self, stream: &mut BufStream<TcpStream>) -> std::io::Result<()> {
        let request = self.read(stream).await?;
        let script = Arc::clone(&self.script.lock().unwrap());
        let answer = match script(&request) {
            Handling::Forward => self.forward(request).await,
            Handling::HoldRequest => {
                if !self.hold().await {
                    return Ok(());
                }
                self.forward(request).await
            }
            Handling::HoldAnswer => {
                let answer = self.forward(request).await;
                if !self.hold().await {
                    return Ok(());
                }
                answer
            }
            Handling::Status(status) => {
                let error = json!({ "type": "scripted", "reason": "as the test says" });
                (status, json!({ "error": error, "status": status }).to_string().into())
            }
        };
        let (status, body) = answer;
        let answer = on_the_wire(format_args!("{status} ."), &body, 0);
        stream.write_all(&answer).await?;
        stream.flush().await
    }

    async fn read(&self, stream: &mut BufStream<TcpStream>) -> std::io::Result<Request> {
        let (method, target, body) = read_request(stream).await?;
        let mut request = Request { bulks_before: 0, method, target, body };
        let count = usize::from(request.is_bulk());
        request.bulks_before = self.bulks.fetch_add(count, Ordering::SeqCst);
        Ok(request)
    }

    /// Elasticsearch's answer, or 502 where there is none.
    async fn forward(&self, request: Request) -> (u16, bytes::Bytes) {
        let kind = if request.is_bulk() { "application/x-ndjson" } else { "application/json" };
        let method = request.method.parse().unwrap();
        let sending = self.client.request(method, format!("{}{}", self.server, request.target));
        let Ok(answer) = sending.header("content-type", kind).body(request.body).send().await else {
            return (502, bytes::Bytes::new());
        };
        let status = answer.status().as_u16();
        answer.bytes().await.map_or_else(|_| (502, bytes::Bytes::new()), |body| (status, body))
    }

    /// Waits until the test releases (`true`) or drops (`false`) what is held.
    async fn hold(&self) -> bool {
        let mut releases = self.releases.subscribe();
        let before = releases.borrow_and_update().0;
        let _held = Held::count(&self.held);
        let release = releases.wait_for(|(count, _)| *count > before).await;
        release.is_ok_and(|release| release.1)
    }
}

/// Counts as held until it is dropped.
struct Held<'a>(&'a watch::Sender<usize>);

impl<'a> Held<'a> {
    fn count(held: &'a watch::Sender<usize>) -> Self {
        held.send_modify(|held| *held += 1);
        Self(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|held| *held -= 1);
    }
}

/// Reads a request: its method, its target (path and query) and its body.
pub(super) async fn read_request(stream: &mut BufStream<TcpStream>) -> std::io::Result<(String, String, Vec<u8>)> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut words = line.split_whitespace().map(ToOwned::to_owned);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((method, target, body))
}

/// An answer of Elasticsearch, after which the connection ends. The header promises `missing` bytes beyond those of the body.
pub(super) fn on_the_wire(status: impl Display, body: &[u8], missing: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nx-elastic-product: Elasticsearch\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len() + missing
    );
    [head.as_bytes(), body].concat()
}
