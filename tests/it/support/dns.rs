//! A scripted name server (UDP, RFC 1035).

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::net::UdpSocket;

/// The answer to a question.
#[derive(Clone)]
pub enum Reply {
    /// These IPv4 addresses with a TTL of 0: a resolver must not keep them.
    Addresses(Vec<Ipv4Addr>),
    /// No such name (NXDOMAIN).
    NoSuchName,
    /// The server has failed (SERVFAIL).
    Failure,
    /// No answer.
    Silence,
}

/// The running name server.
pub struct NameServer {
    /// Where it listens.
    pub address: SocketAddr,
    asked: Arc<Mutex<HashMap<String, usize>>>,
}

impl NameServer {
    /// Starts on a free port of 127.0.0.1. The script is given the name, and how often its IPv4 address was asked before.
    pub async fn start(script: impl Fn(&str, usize) -> Reply + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::<Mutex<HashMap<String, usize>>>::default();
        let server = Self { address, asked: Arc::clone(&asked) };
        tokio::spawn(async move {
            let mut packet = [0; 1500];
            while let Ok((length, client)) = socket.recv_from(&mut packet).await {
                let (name, is_ipv4, end) = question(&packet[..length]);
                let before = {
                    let mut asked = asked.lock().unwrap();
                    let count = asked.entry(name.clone()).or_default();
                    *count += usize::from(is_ipv4);
                    *count - usize::from(is_ipv4)
                };
                if let Some(answer) = answer(&packet[..end], is_ipv4, &script(&name, before)) {
                    socket.send_to(&answer, client).await.unwrap();
                }
            }
        });
        server
    }

    /// How often the IPv4 address of a name was asked.
    pub fn asked(&self, name: &str) -> usize {
        self.asked.lock().unwrap().get(name).copied().unwrap_or_default()
    }
}

/// The name in the question, whether it asks for an IPv4 address, and where the question ends.
fn question(packet: &[u8]) -> (String, bool, usize) {
    const HEADER: usize = 12;
    const IPV4: [u8; 2] = [0, 1];
    let (mut at, mut labels) = (HEADER, Vec::new());
    while packet[at] != 0 {
        let end = at + 1 + usize::from(packet[at]);
        labels.push(String::from_utf8_lossy(&packet[at + 1..end]).to_lowercase());
        at = end;
    }
    (labels.join("."), packet[at + 1..at + 3] == IPV4, at + 5)
}

/// The answer: header and question again, with flags and counts changed, and the records.
fn answer(question: &[u8], is_ipv4: bool, reply: &Reply) -> Option<Vec<u8>> {
    let (code, addresses) = match reply {
        Reply::Addresses(addresses) if is_ipv4 => (0, addresses.as_slice()),
        Reply::Addresses(_) => (0, [].as_slice()),
        Reply::Failure => (2, [].as_slice()),
        Reply::NoSuchName => (3, [].as_slice()),
        Reply::Silence => return None,
    };
    let mut packet = question.to_vec();
    // Response, recursion desired and available.
    packet[2..4].copy_from_slice(&[0x81, 0x80 | code]);
    packet[4..12].copy_from_slice(&[0, 1, 0, u8::try_from(addresses.len()).unwrap(), 0, 0, 0, 0]);
    for address in addresses {
        // The name at offset 12, type A, class IN, TTL 0, four bytes.
        packet.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        packet.extend_from_slice(&address.octets());
    }
    Some(packet)
}
