//! A TCP relay between a client and a server, which delays, throttles, blocks, half-closes or resets its connections.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use url::Url;

/// Most bytes that are read at once.
const PIECE: usize = 16 * 1024;
/// How often a throttled direction transfers.
const TICK: Duration = Duration::from_millis(50);

/// How one direction transfers bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// At once.
    Immediate,
    /// Each piece this much later.
    Delayed(Duration),
    /// This many bytes a second.
    Throttled(usize),
    /// Neither bytes nor an end. The sockets stay open; what was sent arrives once the direction is free again.
    Blocked,
    /// The receiver sees an end, while the other direction still transfers.
    HalfClosed,
}

/// A direction through the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// The running relay.
pub struct Relay {
    /// The server's address with the relay's port.
    pub url: Url,
    up: watch::Sender<Transfer>,
    down: watch::Sender<Transfer>,
    /// Counts the resets.
    resets: watch::Sender<usize>,
}

impl Relay {
    /// Starts on a free port of 127.0.0.1.
    pub async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut url = Url::parse(server).unwrap();
        let server = (url.host_str().unwrap().to_owned(), url.port_or_known_default().unwrap());
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let immediate = || watch::Sender::new(Transfer::Immediate);
        let relay = Self { url, up: immediate(), down: immediate(), resets: watch::Sender::new(0) };
        let (up, down, resets) = (relay.up.subscribe(), relay.down.subscribe(), relay.resets.subscribe());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, up, down, mut resets) = (server.clone(), up.clone(), down.clone(), resets.clone());
                resets.mark_unchanged();
                tokio::spawn(async move {
                    // Where the server refuses, the client's connection is closed.
                    if let Ok(server) = TcpStream::connect(server).await {
                        carry(client, server, up, down, resets).await;
                    }
                });
            }
        });
        relay
    }

    /// Changes one direction of all connections, present and future.
    pub fn set(&self, direction: Direction, transfer: Transfer) {
        let direction = match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        };
        direction.send_replace(transfer);
    }

    /// Resets all present connections, to both sides.
    pub fn reset(&self) {
        self.resets.send_modify(|count| *count += 1);
    }
}

/// Carries a connection until both directions have ended, or one of them breaks.
async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    up: watch::Receiver<Transfer>,
    down: watch::Receiver<Transfer>,
    mut resets: watch::Receiver<usize>,
) {
    {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let both = async { tokio::try_join!(pump(from_client, to_server, up), pump(from_server, to_client, down)) };
        tokio::select! {
            // A direction that breaks ends the other.
            _ = both => return,
            Ok(()) = resets.changed() => {}
        }
    }
    // With zero linger, closing a socket sends a reset.
    let _ = (client.set_zero_linger(), server.set_zero_linger());
}

/// Carries one direction to its end.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut direction: watch::Receiver<Transfer>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let most = match open(&mut direction).await {
            Transfer::HalfClosed => return to.shutdown().await,
            Transfer::Throttled(rate) => (rate * TICK.as_millis() as usize / 1000).clamp(1, PIECE),
            Transfer::Immediate | Transfer::Delayed(_) | Transfer::Blocked => PIECE,
        };
        let read = tokio::select! {
            read = from.read(&mut buffer[..most]) => read?,
            Ok(()) = direction.changed() => continue,
        };
        // It may have changed during the read.
        match open(&mut direction).await {
            Transfer::HalfClosed => return to.shutdown().await,
            Transfer::Delayed(delay) => sleep(delay).await,
            Transfer::Throttled(_) => sleep(TICK).await,
            Transfer::Immediate | Transfer::Blocked => {}
        }
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}

/// Waits until the direction is not blocked.
async fn open(direction: &mut watch::Receiver<Transfer>) -> Transfer {
    let opened = direction.wait_for(|transfer| *transfer != Transfer::Blocked).await.map(|transfer| *transfer).ok();
    match opened {
        Some(passing) => passing,
        // The relay is dropped: nothing can unblock the direction.
        None => std::future::pending().await,
    }
}
