//! How to open a store.

use std::path::PathBuf;

use secrecy::SecretString;

#[derive(Clone, Debug)]
pub struct Settings {
    /// `sqlite:PATH` or `http(s)://[user:pass@]host:port/ALIAS`.
    pub address: SecretString,
    /// API key for Elasticsearch.
    pub api_key: Option<SecretString>,
    /// PEM file with the certificate authority of Elasticsearch.
    pub ca: Option<PathBuf>,
    /// Whether credentials may go over plain HTTP to another host.
    pub allow_plain_http: bool,
    /// Whether a store of an earlier fingerprint of its model is used.
    pub accept_earlier: bool,
}
