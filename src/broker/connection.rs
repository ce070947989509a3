//! A connection that ends when nobody holds it any more, whatever its peer does.

use std::io;
use std::net::Shutdown;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::time::Duration;

use lapin::ConnectionProperties;
use lapin::tcp::{AMQPUriTcpExt, AsyncTcpStream, OwnedTLSConfig};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{CONNECT_TIMEOUT, Error, Settings};

/// A connection whose socket is shut down when this is dropped.
///
/// The client library keeps a thread and a socket for each connection until the peer has answered the handshake or the
/// closing. A peer that has fallen silent never does, and heartbeats cover neither phase: an outage of that kind would
/// cost one of each per attempt.
pub(super) struct Connection {
    connection: lapin::Connection,
    _held: DropGuard,
}

impl Deref for Connection {
    type Target = lapin::Connection;

    fn deref(&self) -> &lapin::Connection {
        &self.connection
    }
}

impl Settings {
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

        let held = CancellationToken::new();
        let given_up = held.clone();
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
                tokio::spawn(shut_down(given_up.clone(), second_handle(socket)?));
                Ok(stream)
            },
            properties,
        );
        let held = held.drop_guard();
        match timeout(limit, connecting).await {
            Ok(Ok(connection)) => Ok(Connection { connection, _held: held }),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no session within {limit:?}"))),
        }
    }
}

fn second_handle(socket: &TcpStream) -> io::Result<std::net::TcpStream> {
    socket.as_fd().try_clone_to_owned().map(Into::into)
}

/// Shuts a socket down when its connection was given up. One that has ended by itself has no more to shut down.
async fn shut_down(given_up: CancellationToken, socket: std::net::TcpStream) {
    given_up.cancelled().await;
    let _ = socket.shutdown(Shutdown::Both);
}
