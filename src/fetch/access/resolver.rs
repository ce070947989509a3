//! Names to addresses that may be connected to.
//!
//! The guard is applied here, inside the connector, to the very addresses that are then connected to. A name that
//! resolves to another address the next time (DNS rebinding) gains nothing.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::fetch::access::guard::Guard;
use crate::fetch::error::{Error, NoAnswer, Refusal};

/// Resolves with the system's configuration (name servers, search domains, hosts file) and returns the addresses that
/// the guard admits.
pub(in crate::fetch) struct GuardedResolver {
    /// The resolver, or why this machine has none. A look-up returns that as its error, because local files and literal
    /// addresses need no resolver.
    resolver: Result<TokioResolver, String>,
    guard: Arc<Guard>,
}

/// Why a name led to no address; travels through the HTTP client's errors to [`Unresolved::into_error`].
#[derive(Clone, Debug, thiserror::Error)]
pub(in crate::fetch) enum Unresolved {
    #[error("no such name")]
    Unknown,
    #[error("{0}")]
    Failed(String),
    #[error("{address} is {class}")]
    Refused { address: IpAddr, class: &'static str },
}

impl Unresolved {
    pub(in crate::fetch) fn into_error(self, host: String) -> Error {
        match self {
            Self::Unknown => Error::UnknownHost { host },
            Self::Failed(reason) => NoAnswer::Resolve { host, reason }.into(),
            Self::Refused { address, class } => Refusal::Address { host, address, class }.into(),
        }
    }
}

impl GuardedResolver {
    /// Asks `name_servers`, or the system's where there are none, and gives up before `limit`.
    pub(in crate::fetch) fn new(guard: Arc<Guard>, name_servers: &[SocketAddr], limit: Duration) -> Self {
        let resolver =
            build(name_servers, limit).map_err(|error| format!("this machine has no usable resolver: {error}"));
        Self { resolver, guard }
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.resolver.clone();
        let guard = Arc::clone(&self.guard);
        Box::pin(async move {
            let found = resolver
                .map_err(Unresolved::Failed)?
                .lookup_ip(name.as_str())
                .await
                .map_err(|error| unresolved(&error))?;
            let addresses = admitted(&guard, found.iter())?;
            // Port 0 stands for the port of the URL.
            let addresses: Addrs = Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

/// The addresses that may be connected to; the first refusal when there is none.
fn admitted(guard: &Guard, found: impl Iterator<Item = IpAddr>) -> Result<Vec<IpAddr>, Unresolved> {
    let mut refusal = Unresolved::Failed("the name has no addresses".into());
    let mut addresses = Vec::new();
    for address in found {
        match guard.admit(address) {
            Ok(()) => addresses.push(address),
            Err(class) if matches!(refusal, Unresolved::Failed(_)) => refusal = Unresolved::Refused { address, class },
            Err(_) => {}
        }
    }
    if addresses.is_empty() { Err(refusal) } else { Ok(addresses) }
}

/// Only NXDOMAIN says that a name does not exist. A name without addresses may get some, as a Kubernetes service does
/// when its pods are ready.
fn unresolved(error: &NetError) -> Unresolved {
    if error.is_nx_domain() {
        Unresolved::Unknown
    } else if error.is_no_records_found() {
        Unresolved::Failed("the name has no addresses".into())
    } else {
        Unresolved::Failed(error.to_string())
    }
}

fn build(name_servers: &[SocketAddr], limit: Duration) -> Result<TokioResolver, NetError> {
    let mut builder = if name_servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = name_servers.iter().map(name_server).collect();
        let config = ResolverConfig::from_name_servers(servers);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    // Two tries within the limit, with room for the answer: the look-up's own error says more than the connector's
    // time-out.
    options.attempts = 1;
    options.timeout = options.timeout.min(limit * 2 / 5);
    builder.build()
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connection = |protocol| {
        let mut connection = ConnectionConfig::new(protocol);
        connection.port = address.port();
        connection
    };
    NameServerConfig::new(address.ip(), true, vec![connection(ProtocolConfig::Udp), connection(ProtocolConfig::Tcp)])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;
    use crate::fetch::settings::Settings;

    fn admit(addresses: &[&str]) -> Result<Vec<String>, Unresolved> {
        let guard = Guard::new(&Settings::default()).unwrap();
        let found = addresses.iter().map(|address| address.parse().unwrap());
        admitted(&guard, found).map(|addresses| addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn only_public_addresses_reach_the_connector() {
        let found = admit(&["10.0.0.1", "1.1.1.1", "::1", "2606:4700::1", "::ffff:192.168.0.1"]).unwrap();
        assert_eq!(found, ["1.1.1.1", "2606:4700::1"]);
    }

    #[test]
    fn when_all_are_refused_the_first_is_named() {
        match admit(&["10.0.0.1", "127.0.0.1"]) {
            Err(Unresolved::Refused { address, class }) => {
                assert_eq!((address.to_string().as_str(), class), ("10.0.0.1", "a private address"));
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(admit(&[]), Err(Unresolved::Failed(_))));
    }
}
