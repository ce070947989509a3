//! Administration of the index behind the alias: its state, its creation, the template that guards the alias.

use elasticsearch::http::Method;
use serde_json::{Value, json};

use super::client::{self, Body, RequestTimeout};
use super::live::Selection;
use super::mapping::{self, CURRENT_VERSION};
use super::state::{self, Index, State};
use super::{Access, Elasticsearch};
use crate::model::manifest::Manifest;
use crate::store::{Blocked, Error, ErrorKind, StoreMeta};

/// The indices behind an alias, and the facts about them that need further requests.
#[derive(Clone, Debug)]
pub struct Status {
    /// The indices, each with what it holds; none if the alias is missing.
    pub indices: Vec<(Index, Counts)>,
    /// Whether the template exists that keeps the alias from becoming an index.
    pub guarded: bool,
}

/// Why nothing is written to an alias of several indices, and what to do.
pub const SEVERAL_INDICES: &str = "an image that is deleted or replaced in one index of an alias would still be found in the \
                                   others; remove all but one from the alias (POST _aliases)";

/// How much an index holds.
#[derive(Clone, Copy, Debug)]
pub struct Counts {
    /// Live ones.
    pub documents: u64,
    pub tombstones: u64,
}

impl Elasticsearch {
    /// See [`crate::store::Store::meta`].
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] where an index behind the alias was not made by imgdex, or two were made for different
    /// models.
    pub async fn meta(&self) -> Result<Option<StoreMeta>, Error> {
        self.indices().await?.map(|indices| self.common_meta(&indices)).transpose()
    }

    /// The indices behind the alias; `None` where there is no alias.
    async fn indices(&self) -> Result<Option<Vec<Index>>, Error> {
        match self.state(&self.alias).await? {
            State::Missing => Ok(None),
            State::Index(_) => Err(self.not_an_alias()),
            State::Alias(indices) => Ok(Some(indices)),
        }
    }

    /// See [`crate::store::Store::check_writable`]: the alias has one index, which takes writes, and nothing blocks it.
    pub async fn check_writable(&self, model: &Manifest) -> Result<(), Error> {
        /// Blocks under which an index takes no documents.
        const BLOCKING: [&str; 3] = ["write", "read_only", "read_only_allow_delete"];
        let blocked = |cause, reason| Err(self.error(ErrorKind::Blocked { cause, reason }));
        let indices = self.indices().await?.ok_or_else(|| self.error(ErrorKind::Missing))?;
        self.common_meta(&indices)?.check(model, CURRENT_VERSION, &self.acceptance, self)?;
        let [index] = &indices[..] else {
            let names: Vec<_> = indices.iter().map(|index| index.name.as_str()).collect();
            let found = format!("of {}", names.join(" and "));
            return Err(self.mismatch("the alias", found, "of one index", SEVERAL_INDICES));
        };
        if !index.takes_writes {
            return blocked(Blocked::IndexMissing, "the alias has no write index".to_owned());
        }
        match index.blocks.iter().find(|block| BLOCKING.contains(&block.as_str())) {
            Some(block) => blocked(Blocked::WriteBlock, format!("{} has the block {block}", index.name)),
            None => Ok(()),
        }
    }

    /// See [`crate::store::Store::create`]: the template, then the index together with its alias. Parts that exist and
    /// fit are kept.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] where it exists for something else.
    pub async fn create(&self, model: &Manifest) -> Result<(), Error> {
        let malformed = |error: serde_json::Error| self.error(ErrorKind::Refused(error.to_string()));
        let dims = mapping::dims().map_err(malformed)?;
        if model.dims != dims {
            let (found, expected) = (dims.to_string(), model.dims.to_string());
            let advice = "this release has no mapping for such a model";
            return Err(self.mismatch("the mapping's number of dimensions", found, expected, advice));
        }
        if let Some(meta) = self.meta().await? {
            meta.check(model, CURRENT_VERSION, &self.acceptance, self)?;
            return self.put_template().await;
        }
        self.put_template().await?;
        let meta = StoreMeta::new(model, CURRENT_VERSION);
        let index = mapping::index_name(&self.alias);
        let body = mapping::index_body(&meta, &self.alias).map_err(malformed)?;
        match self.change(Method::Put, &index, body).await {
            Err(client::Error::Reported { kind, .. }) if kind == "resource_already_exists_exception" => {
                self.adopt(model, &index).await
            }
            result => result.map_err(|error| self.failed(&error, Access::Write)),
        }
    }

    /// The indices behind the alias, with their document counts, and whether the template guards it.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`] where an index has the alias's name, or any failure to find out.
    pub async fn status(&self) -> Result<Status, Error> {
        let found = self.indices().await?.unwrap_or_default();
        let mut indices = Vec::with_capacity(found.len());
        for index in found {
            let documents = self.count_of(&index.name, Selection::Live).await?;
            let tombstones = self.count_of(&index.name, Selection::Tombstones).await?;
            indices.push((index, Counts { documents, tombstones }));
        }
        Ok(Status { indices, guarded: self.is_guarded().await? })
    }

    fn not_an_alias(&self) -> Error {
        let advice = "choose another alias, or move the index away and run `imgdex mappings apply`";
        self.mismatch("the alias", "an index of that name", "an alias", advice)
    }

    /// Adds the alias to an index that exists without it, if the index fits: another process is creating it at this
    /// moment, or the alias was removed.
    async fn adopt(&self, model: &Manifest, index: &str) -> Result<(), Error> {
        if let Some(meta) = self.meta().await? {
            return meta.check(model, CURRENT_VERSION, &self.acceptance, self);
        }
        let State::Index(found) = self.state(index).await? else {
            return Err(self.error(ErrorKind::Unavailable(format!("{index} was removed while it was inspected"))));
        };
        self.common_meta(&[found])?.check(model, CURRENT_VERSION, &self.acceptance, self)?;
        let add = json!({ "add": { "index": index, "alias": self.alias, "is_write_index": true } });
        let added = self.change(Method::Post, "_aliases", json!({ "actions": [add] })).await;
        added.map_err(|error| self.failed(&error, Access::Write))
    }

    /// The metadata that all indices behind the alias share. A search covers all of them and must not compare vectors of
    /// two models.
    fn common_meta(&self, indices: &[Index]) -> Result<StoreMeta, Error> {
        let mut common: Option<&StoreMeta> = None;
        for index in indices {
            let Some(meta) = &index.meta else {
                let found = "without model, fingerprint and version in _meta";
                let advice = format!("{} was not made by imgdex; use another alias", index.name);
                return Err(self.mismatch("its mapping", found, "with them", advice));
            };
            if let Some(difference) = index.differences.first().filter(|_| meta.mapping_version == CURRENT_VERSION) {
                let found = format!("{}: {}", difference.part, difference.found);
                let advice = format!("{} was changed; use another alias and index the images again", index.name);
                return Err(self.mismatch("its mapping", found, &difference.expected, advice));
            }
            if common.is_some_and(|common| common != meta) {
                let found = "of indices made for several models or mappings";
                return Err(self.mismatch(
                    "the alias",
                    found,
                    "one",
                    "remove all but one of its indices from the alias",
                ));
            }
            common = Some(meta);
        }
        common.cloned().ok_or_else(|| self.error(ErrorKind::Missing))
    }

    async fn state(&self, name: &str) -> Result<State, Error> {
        match self.client.send(Method::Get, name, Body::Empty, RequestTimeout::Lookup).await {
            Ok(response) => state::read(name, &response).map_err(|error| self.unreadable(&error, &response)),
            Err(client::Error::Reported { status: 404, kind, .. }) if kind == "index_not_found_exception" => {
                Ok(State::Missing)
            }
            Err(error) => Err(self.failed(&error, Access::Read)),
        }
    }

    async fn put_template(&self) -> Result<(), Error> {
        let path = format!("_index_template/{}", mapping::template_name(&self.alias));
        let put = self.change(Method::Put, &path, mapping::template_body(&self.alias)).await;
        put.map_err(|error| self.failed(&error, Access::Write))
    }

    async fn is_guarded(&self) -> Result<bool, Error> {
        let path = format!("_index_template/{}", mapping::template_name(&self.alias));
        match self.client.send(Method::Get, &path, Body::Empty, RequestTimeout::Lookup).await {
            Ok(_) => Ok(true),
            Err(client::Error::Reported { status: 404, .. }) => Ok(false),
            Err(error) => Err(self.failed(&error, Access::Read)),
        }
    }

    pub(super) async fn change(&self, method: Method, path: &str, body: Value) -> Result<(), client::Error> {
        self.client.send(method, path, Body::Json(body), RequestTimeout::Change).await.map(drop)
    }

    fn mismatch(
        &self,
        what: &'static str,
        found: impl Into<String>,
        expected: impl Into<String>,
        advice: impl Into<String>,
    ) -> Error {
        self.error(ErrorKind::mismatch(what, found, expected, advice))
    }
}
