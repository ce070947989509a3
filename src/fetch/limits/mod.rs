//! Bounds on what fetches share: requests at a host, time, memory; and the health of hosts and network.

pub(super) mod body;
pub(super) mod deadline;
pub(super) mod host_health;
pub(super) mod memory;
pub(super) mod network_health;
pub(super) mod per_host;
pub(super) mod throttle;
