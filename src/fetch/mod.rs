//! URL to bytes, within limits and only from addresses that may be reached.
//!
//! Reading order: [`Fetcher::get`] in `fetcher`; `request`, one request with its response; `redirect`, where a redirect
//! may lead. The rules about who may be reached are in [`access`]: [`access::guard`] for URLs, [`access::address`] for
//! IP addresses, applied to the addresses of a name by `resolver` at the moment of connecting.
//!
//! `limits` bounds what fetches share: `per_host` the requests at a host, with `host_health` to tell whether waiting
//! for it makes sense; `memory` the bytes of bodies. `deadline` counts the time that a fetch waits for those apart from
//! the time that the host takes, and `network_health` tells a network that has failed from hosts that have. `throttle`
//! slows refusals down while nearly all fetches are refused.

pub mod access;
mod error;
mod fetcher;
mod file;
mod limits;
mod redirect;
mod request;
mod retry_after;
mod settings;

pub use error::{Error, NoAnswer, Refusal};
pub use fetcher::Fetcher;
pub use settings::{Settings, Timeouts};
