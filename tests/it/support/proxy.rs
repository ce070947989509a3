//! A proxy in front of the real Elasticsearch, for what happens between it and its clients: requests and answers that are
//! held, errors as a test says, a server that is gone.

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

/// A request as it came.
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

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Elasticsearch answers it.
    Forward,
    /// Elasticsearch sees it only when the test releases it, even if its client has gone by then.
    HoldRequest,
    /// Elasticsearch has done it, but its answer is held until the test releases it.
    HoldAnswer,
    /// Elasticsearch does not see it; this status is answered.
    Status(u16),
}

type Script = dyn Fn(&Request) -> Fate + Send + Sync;

/// The running proxy. At first it forwards everything.
pub struct Proxy {
    state: Arc<State>,
    address: SocketAddr,
    /// Bound but never listening: keeps the port for this proxy while it refuses connections.
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
    /// How often the held ones were let go, and whether they went on the last time.
    verdicts: watch::Sender<(usize, bool)>,
}

impl Proxy {
    /// Starts on a free port of 127.0.0.1, in front of a server's address.
    pub fn start(server: String) -> Self {
        let port = bind(SocketAddr::from(([127, 0, 0, 1], 0)));
        let state = State {
            server,
            client: Client::new(),
            script: Mutex::new(Arc::new(|_: &Request| Fate::Forward)),
            bulks: AtomicUsize::new(0),
            held: watch::Sender::new(0),
            verdicts: watch::Sender::new((0, true)),
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

    /// Says what becomes of each request from now on.
    pub fn script(&self, script: impl Fn(&Request) -> Fate + Send + Sync + 'static) {
        *self.state.script.lock().unwrap() = Arc::new(script);
    }

    /// Says what becomes of each bulk request from now on; everything else is forwarded.
    pub fn bulks_meet(&self, fate: Fate) {
        self.script(move |request| if request.is_bulk() { fate } else { Fate::Forward });
    }

    /// How many bulk requests came so far.
    pub fn bulks(&self) -> usize {
        self.state.bulks.load(Ordering::SeqCst)
    }

    /// Waits until a request is held, before or after Elasticsearch has done it.
    pub async fn until_held(&self) {
        let mut held = self.state.held.subscribe();
        poll::soon("a held request", held.wait_for(|held| *held > 0)).await.unwrap();
    }

    /// Lets what is held go on, and returns at that moment. What comes later is held again if the script says so.
    pub async fn release(&self) {
        self.state.verdicts.send_modify(|(count, goes_on)| (*count, *goes_on) = (*count + 1, true));
        let mut held = self.state.held.subscribe();
        poll::soon("no held request", held.wait_for(|held| *held == 0)).await.unwrap();
    }

    /// Ends what is held with its connection, as if it were lost on the way.
    pub fn forget(&self) {
        self.state.verdicts.send_modify(|(count, goes_on)| (*count, *goes_on) = (*count + 1, false));
    }

    /// Breaks every connection, and refuses new ones until [`Self::up`].
    pub fn down(&self) {
        self.up.lock().unwrap().cancel();
    }

    /// Takes connections again.
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
            // A client that has left is part of the game.
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
            Fate::Forward => self.forward(request).await,
            Fate::HoldRequest => {
                if !self.hold().await {
                    return Ok(());
                }
                self.forward(request).await
            }
            Fate::HoldAnswer => {
                let answer = self.forward(request).await;
                if !self.hold().await {
                    return Ok(());
                }
                answer
            }
            Fate::Status(status) => {
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

    /// Elasticsearch's answer. A server that is gone is a bad gateway.
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

    /// Waits for the test's word; `false` where the held one does not go on.
    async fn hold(&self) -> bool {
        let mut verdicts = self.verdicts.subscribe();
        let before = verdicts.borrow_and_update().0;
        let _held = Held::count(&self.held);
        let verdict = verdicts.wait_for(|(count, _)| *count > before).await;
        verdict.is_ok_and(|verdict| verdict.1)
    }
}

/// Counted as held for as long as it lives.
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
