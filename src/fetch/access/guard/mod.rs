//! Which URLs and addresses may be fetched. Pure: no name is resolved here.

use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

use super::address;
use crate::excerpt::excerpt;
use crate::fetch::error::{Error, MAX_QUOTE, Refusal};
use crate::fetch::settings::Settings;

/// The ports of http and https.
const WEB_PORTS: [u16; 2] = [80, 443];

#[derive(Clone, Debug)]
pub struct Guard {
    allow_nets: Vec<IpNet>,
    allow_ports: Vec<u16>,
    allow_hosts: Vec<Host>,
    deny_hosts: Vec<Host>,
}

impl Guard {
    /// # Errors
    /// [`Error::Setup`] when an entry of the host lists is no host: an entry that can match nothing must not go unnoticed.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        Ok(Self {
            allow_nets: settings.allow_nets.clone(),
            allow_ports: settings.allow_ports.clone(),
            allow_hosts: settings.allow_hosts.iter().map(|entry| list_entry(entry)).collect::<Result<_, _>>()?,
            deny_hosts: settings.deny_hosts.iter().map(|entry| list_entry(entry)).collect::<Result<_, _>>()?,
        })
    }

    /// Checks all that the URL itself shows: scheme, user info, host, port, and the address where the host is one. The
    /// address behind a name is checked by [`Self::admit`] when it is connected to.
    pub fn check(&self, url: &Url) -> Result<(), Refusal> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refusal::Scheme { scheme: excerpt(url.scheme(), MAX_QUOTE) });
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::UserInfo);
        }
        let host = bare(url.host().ok_or(Refusal::NoHost)?.to_owned());
        let listed = |list: &[Host]| list.iter().any(|entry| covers(entry, &host));
        if listed(&self.deny_hosts) || !(self.allow_hosts.is_empty() || listed(&self.allow_hosts)) {
            return Err(Refusal::Host { host: host.to_string() });
        }
        let port = url.port_or_known_default().unwrap_or_default();
        if !WEB_PORTS.contains(&port) && !self.allow_ports.contains(&port) {
            return Err(Refusal::Port { port });
        }
        // The HTTP client asks its resolver for names only, so a literal address has to be checked here.
        let literal = match host {
            Host::Domain(_) => return Ok(()),
            Host::Ipv4(address) => IpAddr::V4(address),
            Host::Ipv6(address) => IpAddr::V6(address),
        };
        self.admit(literal).map_err(|class| Refusal::Address { host: literal.to_string(), address: literal, class })
    }

    /// Whether this address may be connected to.
    ///
    /// # Errors
    /// The kind of address, as [`address::special`] names it.
    pub fn admit(&self, address: IpAddr) -> Result<(), &'static str> {
        let Some(class) = address::special(address) else { return Ok(()) };
        let translated = match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => address::translated(address).map(IpAddr::V4),
        };
        let allowed = |address| self.allow_nets.iter().any(|net| net.contains(&address));
        if allowed(address) || translated.is_some_and(allowed) { Ok(()) } else { Err(class) }
    }
}

/// Reads an entry of a host list as a URL's host is read: lower case, IDNA, numeric forms of addresses.
fn list_entry(entry: &str) -> Result<Host, Error> {
    let invalid = |reason: &str| Error::Setup { reason: format!("{entry:?} in a host list {reason}") };
    if entry.starts_with(['*', '.']) {
        return Err(invalid("has a wildcard; write the bare domain, which covers its subdomains"));
    }
    Host::parse(entry).map(bare).map_err(|error| invalid(&format!("is not a host: {error}")))
}

/// Drops the dot of a fully qualified name: `example.com.` is the same host as `example.com`.
fn bare<S: AsRef<str>>(host: Host<S>) -> Host {
    match host {
        Host::Domain(name) => Host::Domain(name.as_ref().trim_end_matches('.').to_owned()),
        Host::Ipv4(address) => Host::Ipv4(address),
        Host::Ipv6(address) => Host::Ipv6(address),
    }
}

/// Whether the entry is this host or a domain above it.
fn covers(entry: &Host, host: &Host) -> bool {
    match (entry, host) {
        (Host::Domain(entry), Host::Domain(host)) => {
            host.strip_suffix(entry.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        }
        _ => entry == host,
    }
}

#[cfg(test)]
mod tests;
