//! Settings of the broker, and a connection that ends when it is dropped, even if its peer is silent.

use std::io;
use std::net::Shutdown;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, OwnedTLSConfig};
use lapin::uri::AMQPUri;
use lapin::{Channel, ConnectionProperties};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::confirm::confirming_channel;
use super::error::Error;
use super::topology::Topology;

/// Limit on TCP, TLS and the AMQP handshake together, where the address has no `connection_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Seconds between heartbeats where the address has no `heartbeat`: a dead peer is noticed within two of them, and a busy
/// machine still answers in time.
const HEARTBEAT_SECONDS: u16 = 20;
/// How long the broker may take to answer a request or to confirm a message. A confirm waits for a majority of the
/// queue's replicas, and is held back while the broker is short of memory or disk.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the broker is and what is declared on it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `amqp(s)://user:pass@host:port/vhost`.
    pub address: SecretString,
    /// PEM file with the broker's certificate authority.
    pub ca: Option<PathBuf>,
    pub topology: Topology,
    /// The connection's name in the broker's management page.
    pub connection_name: String,
}

/// A connection whose socket is shut down when this is dropped.
///
/// The client library keeps a thread and a socket for each connection until the peer has answered the handshake or the
/// close. A silent peer never answers, and heartbeats cover neither phase: such an outage would leak a thread and a socket
/// per attempt.
pub(super) struct Connection {
    connection: lapin::Connection,
    _shut_down_on_drop: DropGuard,
}

impl Deref for Connection {
    type Target = lapin::Connection;

    fn deref(&self) -> &lapin::Connection {
        &self.connection
    }
}

impl Connection {
    /// Closes the connection after every message on it is settled, so that an unclean close has no consequence.
    pub(super) async fn close_settled(&self) {
        let _ = timeout(ANSWER_TIMEOUT, self.close(200, "done".into())).await;
    }
}

impl Settings {
    /// Checks the address without connecting.
    ///
    /// # Errors
    /// [`Error::Address`].
    pub fn check(&self) -> Result<(), Error> {
        self.uri().map(drop)
    }

    /// Connects and closes, to see whether the broker answers and accepts the credentials. Declares nothing.
    pub async fn probe(&self) -> Result<(), Error> {
        let connection = self.connect().await?;
        Ok(connection.close(200, "done".into()).await?)
    }

    /// Connects, declares the topology, and opens a channel in confirm mode.
    pub(super) async fn connect_to_publish(&self) -> Result<(Connection, Channel), Error> {
        let connection = self.connect().await?;
        self.topology.declare(&connection).await?;
        let channel = confirming_channel(&connection).await?;
        Ok((connection, channel))
    }

    /// Connects. The library's own recovery stays off: it covers connection errors only, so a session that lost its
    /// channel or its consumer would look alive.
    pub(super) async fn connect(&self) -> Result<Connection, Error> {
        let uri = self.uri()?;
        let broker = format!("{}://{}:{}/{}", uri.scheme, uri.authority.host, uri.authority.port, uri.vhost);
        let failed = |reason: String| Error::Connect { broker: broker.clone(), reason };
        let limit = uri.query.connection_timeout.map_or(CONNECT_TIMEOUT, Duration::from_millis);
        let tls = OwnedTLSConfig { identity: None, cert_chain: self.ca_certificates().await? };
        let runtime = lapin::runtime::default_runtime().map_err(|error| failed(error.to_string()))?;
        let properties = ConnectionProperties::default().with_connection_name(self.connection_name.as_str().into());

        let dropped = CancellationToken::new();
        let shut_down_on_drop = dropped.clone().drop_guard();
        let connecting = lapin::Connection::connector(
            uri,
            runtime,
            async move |uri, runtime| {
                let dialling = timeout(limit, uri.connect_with_config_async(tls.as_ref(), &runtime));
                let stream = dialling.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                let socket = match &stream {
                    AsyncTcpStream::Plain(plain) => plain.get_ref(),
                    AsyncTcpStream::Rustls(tls) => tls.get_ref().0.get_ref(),
                    // No other kind is compiled in.
                    _ => return Ok(stream),
                };
                tokio::spawn(shut_down(dropped.clone(), duplicate(socket)?));
                Ok(stream)
            },
            properties,
        );
        match timeout(limit, connecting).await {
            Ok(Ok(connection)) => Ok(Connection { connection, _shut_down_on_drop: shut_down_on_drop }),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no session within {limit:?}"))),
        }
    }

    fn uri(&self) -> Result<AMQPUri, Error> {
        let mut uri: AMQPUri =
            self.address.expose_secret().parse().map_err(|reason: String| Error::Address { reason })?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        Ok(uri)
    }

    async fn ca_certificates(&self) -> Result<Option<String>, Error> {
        let Some(path) = &self.ca else { return Ok(None) };
        let read = tokio::fs::read_to_string(path).await;
        read.map(Some).map_err(|source| Error::Certificate { path: path.clone(), source })
    }
}

fn duplicate(socket: &TcpStream) -> io::Result<std::net::TcpStream> {
    socket.as_fd().try_clone_to_owned().map(Into::into)
}

/// Shuts the socket down once its [`Connection`] is dropped. On a socket that is closed already this has no effect.
async fn shut_down(dropped: CancellationToken, socket: std::net::TcpStream) {
    dropped.cancelled().await;
    let _ = socket.shutdown(Shutdown::Both);
}
