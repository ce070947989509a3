//! A server that answers every bulk request with the same bytes, for answers that a real Elasticsearch gives rarely.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What is answered to a bulk request, byte by byte: status line, headers and body.
#[derive(Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) status: &'static str,
    pub(crate) body: &'static str,
    /// Bytes that the header promises beyond those of the body, after which the connection ends.
    pub(crate) missing: usize,
}

/// Starts on a free port; ends with the test's runtime. Returns its address.
pub(crate) async fn start(bulk: Answer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, bulk));
        }
    });
    format!("http://{address}/some/prefix/images")
}

async fn serve(mut socket: TcpStream, bulk: Answer) {
    let mut received = Vec::new();
    loop {
        let mut buffer = vec![0; 65536];
        let Ok(count @ 1..) = socket.read(&mut buffer).await else { return };
        received.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&received);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
        if body.len() >= length {
            break;
        }
    }
    let is_bulk = received.starts_with(b"POST /some/prefix/images/_bulk?require_alias=true&");
    let nodes = Answer { status: "200 OK", body: r#"{"nodes":{"a":{"version":"9.4.3"}}}"#, missing: 0 };
    let Answer { status, body, missing } = if is_bulk { bulk } else { nodes };
    let length = body.len() + missing;
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    let _ = socket.write_all(answer.as_bytes()).await;
}
