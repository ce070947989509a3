//! Arguments to the typed settings that the parts of the program are made from.

use std::collections::HashMap;
use std::env;
use std::path::PathBuf;

use secrecy::SecretString;

use super::args::{BrokerArgs, FetchArgs, ModelArgs, StoreArgs};
use super::{Error, Exit};
use crate::broker::{self, topology::Topology};
use crate::machine::cores;
use crate::model::manifest::{DEFAULT_MODEL, Manifest};
use crate::{decode, fetch, store};

impl StoreArgs {
    pub fn settings(&self) -> Result<store::Settings, Error> {
        let address = match &self.store {
            Some(address) => address.clone(),
            None => format!("sqlite:{}", data_folder()?.join("imgdex.db").display()),
        };
        Ok(store::Settings {
            address: address.into(),
            api_key: self.es_api_key.clone().map(SecretString::from),
            ca: self.es_ca.clone(),
            allow_plain_http: self.allow_plain_http,
            accept_earlier: self.accept_earlier_decoder,
        })
    }
}

impl ModelArgs {
    /// The model that `--model` names, for commands without a store and for new stores.
    pub fn manifest(&self) -> Result<Manifest, Error> {
        find_model(self.model.as_deref().unwrap_or(DEFAULT_MODEL))
    }

    /// The folder with the weights: `--model-dir`, else the data folder.
    pub fn folder(&self) -> Result<PathBuf, Error> {
        self.model_dir.clone().map_or_else(data_folder, Ok)
    }
}

impl FetchArgs {
    /// For commands that a user runs on own files: `file:` URLs are read, and a fetch waits as long as it must.
    pub fn fetch_for_command(&self) -> Result<fetch::Settings, Error> {
        Ok(fetch::Settings { local_files: true, defer: false, ..self.fetch_for_worker()? })
    }

    /// For a worker: no local files; a fetch that would wait for long is deferred.
    pub fn fetch_for_worker(&self) -> Result<fetch::Settings, Error> {
        Ok(fetch::Settings {
            allow_nets: self.allow_net.clone(),
            allow_ports: self.allow_port.clone(),
            allow_hosts: self.allow_host.clone(),
            deny_hosts: self.deny_host.clone(),
            max_bytes: self.max_image_bytes,
            max_bytes_held: self.max_inflight_bytes,
            defer: true,
            local_files: false,
            host_auth: self.host_auth()?,
            ca_file: self.fetch_ca.clone(),
            name_servers: self.name_server.clone(),
            ..fetch::Settings::default()
        })
    }

    fn host_auth(&self) -> Result<HashMap<String, SecretString>, Error> {
        let Some(path) = &self.host_auth_file else { return Ok(HashMap::new()) };
        let unusable = |reason: String| Error::new(Exit::Config, format!("{}: {reason}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        fetch::access::credentials::parse(&text).map_err(|error| unusable(error.to_string()))
    }

    pub fn decode(&self) -> decode::Settings {
        decode::Settings {
            max_pixels: self.max_image_pixels,
            max_file_bytes: self.max_image_bytes,
            allow_tiff: self.allow_tiff,
            accept_truncated: self.accept_truncated,
            permits: cores(),
            isolation: decode::Isolation::best(),
        }
    }
}

impl BrokerArgs {
    /// Checked, and not connected to. `command` is part of the connection's name.
    pub fn settings(&self, command: &str) -> Result<broker::Settings, Error> {
        let settings = broker::Settings {
            address: self.amqp.clone().into(),
            ca: self.amqp_ca.clone(),
            topology: Topology::new(&self.exchange, &self.queue, &self.retry_delays)?,
            connection_name: format!("imgdex {command} {}", env!("CARGO_PKG_VERSION")),
        };
        settings.check()?;
        Ok(settings)
    }
}

/// The model of this name in the catalogue.
pub fn find_model(name: &str) -> Result<Manifest, Error> {
    Manifest::find(name).map_err(|error| Error::new(Exit::Config, error.to_string()))
}

/// The folder of the default store and the weights: `$XDG_DATA_HOME/imgdex`, else `~/.local/share/imgdex`.
fn data_folder() -> Result<PathBuf, Error> {
    user_folder("XDG_DATA_HOME", ".local/share").ok_or_else(|| {
        let message = "neither XDG_DATA_HOME nor HOME is set, so there is no data folder; pass --store and --model-dir";
        Error::new(Exit::Config, message)
    })
}

/// The folder of the configuration file: `$XDG_CONFIG_HOME/imgdex`, else `~/.config/imgdex`; `None` without a home.
pub fn config_folder() -> Option<PathBuf> {
    user_folder("XDG_CONFIG_HOME", ".config")
}

/// The XDG rule: the variable where it holds an absolute path, else a folder below the home.
fn user_folder(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| Some(absolute("HOME")?.join(below_home))).map(|folder| folder.join("imgdex"))
}
