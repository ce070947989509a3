//! Who may be reached, and with which credentials.

pub mod address;
pub mod credentials;
pub mod guard;
pub(super) mod resolver;
