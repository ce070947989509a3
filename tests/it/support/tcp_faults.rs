//! A TCP relay with faults: between a client and a server, it spoils connections when told, also those that live.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;
use url::Url;

/// Bytes carried in one go.
const PIECE: usize = 16 * 1024;
/// How often a slow way carries something.
const TICK: Duration = Duration::from_millis(50);

/// What a way does with the bytes on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// Carries them at once.
    Freely,
    /// Carries each piece this much later.
    Late(Duration),
    /// Carries so many a second.
    Slowly(usize),
    /// Carries nothing, neither bytes nor an end. The sockets stay open; what was sent arrives once the way is free again.
    Not,
    /// Tells the receiver that nothing more comes, and carries nothing more, while the other way goes on.
    Ended,
}

/// A way through the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// The running relay.
pub struct Relay {
    /// The server's address with the relay's port.
    pub url: Url,
    up: watch::Sender<Passing>,
    down: watch::Sender<Passing>,
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
        let freely = || watch::Sender::new(Passing::Freely);
        let relay = Self { url, up: freely(), down: freely(), resets: watch::Sender::new(0) };
        let (up, down, resets) = (relay.up.subscribe(), relay.down.subscribe(), relay.resets.subscribe());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, up, down, mut resets) = (server.clone(), up.clone(), down.clone(), resets.clone());
                resets.mark_unchanged();
                tokio::spawn(async move {
                    // A server that is down refuses; dropped, the client's connection ends.
                    if let Ok(server) = TcpStream::connect(server).await {
                        carry(client, server, up, down, resets).await;
                    }
                });
            }
        });
        relay
    }

    /// Changes one way of all connections, those to come included.
    pub fn set(&self, way: Way, passing: Passing) {
        let way = match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        };
        way.send_replace(passing);
    }

    /// Breaks all connections that live, towards both sides.
    pub fn reset(&self) {
        self.resets.send_modify(|count| *count += 1);
    }
}

/// Carries a connection until both ways have ended, or one of them breaks.
async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    up: watch::Receiver<Passing>,
    down: watch::Receiver<Passing>,
    mut resets: watch::Receiver<usize>,
) {
    {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let both = async { tokio::try_join!(pump(from_client, to_server, up), pump(from_server, to_client, down)) };
        tokio::select! {
            // A way that broke takes the other with it.
            _ = both => return,
            Ok(()) = resets.changed() => {}
        }
    }
    // Closed so, a socket sends a reset.
    let _ = (client.set_zero_linger(), server.set_zero_linger());
}

/// Carries one way to its end.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut way: watch::Receiver<Passing>) -> std::io::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let most = match open(&mut way).await {
            Passing::Ended => return to.shutdown().await,
            Passing::Slowly(rate) => (rate * TICK.as_millis() as usize / 1000).clamp(1, PIECE),
            Passing::Freely | Passing::Late(_) | Passing::Not => PIECE,
        };
        let read = tokio::select! {
            read = from.read(&mut buffer[..most]) => read?,
            Ok(()) = way.changed() => continue,
        };
        // It may have changed just now.
        match open(&mut way).await {
            Passing::Ended => return to.shutdown().await,
            Passing::Late(delay) => sleep(delay).await,
            Passing::Slowly(_) => sleep(TICK).await,
            Passing::Freely | Passing::Not => {}
        }
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}

/// Waits until the way carries something, or ends.
async fn open(way: &mut watch::Receiver<Passing>) -> Passing {
    let opened = way.wait_for(|passing| *passing != Passing::Not).await.map(|passing| *passing).ok();
    match opened {
        Some(passing) => passing,
        // The relay is gone, and with it whoever could open the way.
        None => std::future::pending().await,
    }
}
