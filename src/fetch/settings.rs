//! What may be fetched, and within which limits.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Networks that may be reached although they are private or local.
    pub allow_nets: Vec<IpNet>,
    /// Ports besides 80 and 443.
    pub allow_ports: Vec<u16>,
    /// Only these hosts and their subdomains; empty: any.
    pub allow_hosts: Vec<String>,
    /// Never these hosts and their subdomains.
    pub deny_hosts: Vec<String>,
    /// Largest body in bytes, after decompression.
    pub max_bytes: u64,
    /// Most bytes of all bodies together, until they are decoded; one body may exceed it. At least `max_bytes`.
    pub max_bytes_held: u64,
    /// Whether a fetch that would wait for long is refused with [`super::Error::Busy`] or [`super::Error::Failing`],
    /// for a caller that retries later and has other images to fetch until then.
    pub defer: bool,
    /// Whether `file:` URLs are read: only for commands that a user runs on own files.
    pub local_files: bool,
    pub timeouts: Timeouts,
    /// Most requests at one host at a time; a host earns them by answering.
    pub per_host: usize,
    /// Most requests at all hosts together.
    pub concurrency: usize,
    /// Values of the `Authorization` header by origin, see [`super::access::credentials`].
    pub host_auth: HashMap<String, SecretString>,
    /// PEM file with certificate authorities that are trusted besides the public ones.
    pub ca_file: Option<PathBuf>,
    /// Name servers to ask instead of the system's.
    pub name_servers: Vec<SocketAddr>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            allow_nets: Vec::new(),
            allow_ports: Vec::new(),
            allow_hosts: Vec::new(),
            deny_hosts: Vec::new(),
            max_bytes: 32 << 20,
            // Some eighty images of the size that cameras make.
            max_bytes_held: 256 << 20,
            defer: false,
            local_files: false,
            timeouts: Timeouts::default(),
            // What browsers and CDNs are used to, doubled because one object store commonly serves everything.
            per_host: 16,
            // Above any sensible prefetch; bounds sockets where many hosts are slow at once.
            concurrency: 256,
            host_auth: HashMap::new(),
            ca_file: None,
            name_servers: Vec::new(),
        }
    }
}

/// How long each phase of a fetch may take. Only the host's own time counts, not the time for which this process keeps
/// it waiting.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Name look-up, TCP and TLS.
    pub connect: Duration,
    /// From the request's start, connecting included, to the end of the response headers.
    pub headers: Duration,
    /// Between two pieces of the body.
    pub idle: Duration,
    /// The whole fetch, with redirects and the second try.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(5), headers: seconds(10), idle: seconds(10), total: seconds(30) }
    }
}
