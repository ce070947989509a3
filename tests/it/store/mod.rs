//! Elasticsearch and the embedded store, and their agreement.

mod elasticsearch;
mod embedded;
mod order;
mod score_agreement;
mod tombstones;

use imgdex::testing::store::Store;
use tempfile::TempDir;

use crate::support::elasticsearch::{Alias, model, settings};

/// A new store of either kind, removed when dropped.
struct StoreInTest {
    open: Store,
    /// Of the command line.
    address: String,
    /// The index, in Elasticsearch.
    alias: Option<Alias>,
    _folder: Option<TempDir>,
}

impl StoreInTest {
    async fn both() -> [Self; 2] {
        let (alias, open) = Alias::created().await;
        let elasticsearch = Self { open, address: alias.address(), alias: Some(alias), _folder: None };
        let folder = tempfile::tempdir().unwrap();
        let address = format!("sqlite:{}", folder.path().join("store.db").display());
        let open = Store::open(&settings(address.clone())).unwrap();
        open.create(&model()).await.unwrap();
        [elasticsearch, Self { open, address, alias: None, _folder: Some(folder) }]
    }

    /// Makes writes visible to searches.
    async fn refresh(&self) {
        if let Some(alias) = &self.alias {
            alias.refresh().await;
        }
    }
}
