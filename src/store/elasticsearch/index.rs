//! The index behind the alias: creating it, and saying what is there.

use elasticsearch::http::Method;
use serde_json::{Value, json};

use super::client::{self, Body, Patience};
use super::mapping::{self, CURRENT_VERSION};
use super::state::{self, Index, State};
use super::{Access, Elasticsearch};
use crate::model::manifest::Manifest;
use crate::store::{Blocked, Error, Origin};

/// What stands behind an alias, with what is only known by asking further.
#[derive(Clone, Debug)]
pub struct Status {
    /// The indices, each with the number of its documents; none if the alias is missing.
    pub indices: Vec<(Index, u64)>,
    /// Whether the template is there that keeps the alias from becoming an index.
    pub guarded: bool,
}

impl Elasticsearch {
    /// See [`crate::store::Store::origin`].
    ///
    /// # Errors
    /// [`Error::Mismatch`] where what is behind the alias was not made by imgdex, or not for one model.
    pub async fn origin(&self) -> Result<Option<Origin>, Error> {
        self.indices().await?.map(|indices| self.common_origin(&indices)).transpose()
    }

    /// The indices behind the alias; `None` where there is no alias.
    async fn indices(&self) -> Result<Option<Vec<Index>>, Error> {
        match self.state(&self.alias).await? {
            State::Missing => Ok(None),
            State::Index(_) => Err(self.not_an_alias()),
            State::Alias(indices) => Ok(Some(indices)),
        }
    }

    /// See [`crate::store::Store::check_writable`]: the alias has a write index, and nothing blocks it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn check_writable(&self, model: &Manifest) -> Result<(), Error> {
        /// Blocks under which an index takes no documents.
        const BLOCKING: [&str; 3] = ["write", "read_only", "read_only_allow_delete"];
        let blocked = |cause, reason| Err(Error::Blocked { store: self.to_string(), cause, reason });
        let indices = self.indices().await?.ok_or_else(|| Error::Missing { store: self.to_string() })?;
        self.common_origin(&indices)?.check(model, self)?;
        let Some(index) = indices.iter().find(|index| index.write_index) else {
            return blocked(Blocked::IndexMissing, "the alias has no write index".to_owned());
        };
        match index.blocks.iter().find(|block| BLOCKING.contains(&block.as_str())) {
            Some(block) => blocked(Blocked::WriteBlock, format!("{} has the block {block}", index.index)),
            None => Ok(()),
        }
    }

    /// See [`crate::store::Store::create`]: the template, then the index together with its alias. What is there already and
    /// fits is left as it is.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where it exists for something else.
    pub async fn create(&self, model: &Manifest) -> Result<(), Error> {
        if model.dims != mapping::DIMS {
            let (found, expected) = (mapping::DIMS.to_string(), model.dims.to_string());
            let advice = "this release has no mapping for such a model";
            return Err(self.mismatch("the mapping's number of dimensions", &found, &expected, advice));
        }
        if let Some(origin) = self.origin().await? {
            origin.check(model, self)?;
            return self.put_template().await;
        }
        self.put_template().await?;
        let origin = Origin::new(model);
        let index = mapping::index_name(&self.alias);
        let body = mapping::index_body(&origin, &self.alias)
            .map_err(|error| Error::Refused { store: self.to_string(), reason: error.to_string() })?;
        match self.change(Method::Put, &index, body).await {
            Err(client::Error::Reported { kind, .. }) if kind == "resource_already_exists_exception" => {
                self.adopt(model, &index).await
            }
            result => result.map_err(|error| self.failed(&error, Access::Write)),
        }
    }

    /// What stands behind the alias.
    ///
    /// # Errors
    /// [`Error::Mismatch`] where an index has the alias's name, or any failure to find out.
    pub async fn status(&self) -> Result<Status, Error> {
        let found = self.indices().await?.unwrap_or_default();
        let mut indices = Vec::with_capacity(found.len());
        for index in found {
            let documents = self.count_of(&index.index).await?;
            indices.push((index, documents));
        }
        Ok(Status { indices, guarded: self.is_guarded().await? })
    }

    fn not_an_alias(&self) -> Error {
        let advice = "choose another alias, or move the index away and run `imgdex mappings apply`";
        self.mismatch("the alias", "an index of that name", "an alias", advice)
    }

    /// The index exists without the alias: from another process that creates it at this moment, or because somebody removed
    /// the alias. It is taken if it fits.
    async fn adopt(&self, model: &Manifest, index: &str) -> Result<(), Error> {
        if let Some(origin) = self.origin().await? {
            return origin.check(model, self);
        }
        let State::Index(found) = self.state(index).await? else {
            return Err(Error::Unavailable { store: self.to_string(), reason: format!("{index} came and went") });
        };
        self.common_origin(&[found])?.check(model, self)?;
        let add = json!({ "add": { "index": index, "alias": self.alias, "is_write_index": true } });
        let added = self.change(Method::Post, "_aliases", json!({ "actions": [add] })).await;
        added.map_err(|error| self.failed(&error, Access::Write))
    }

    /// The origin that all indices behind the alias share: a search goes to all of them, and must not compare vectors of
    /// two models.
    fn common_origin(&self, indices: &[Index]) -> Result<Origin, Error> {
        let mut common: Option<&Origin> = None;
        for index in indices {
            let Some(origin) = &index.origin else {
                let advice = format!("{} was not made by imgdex; use another alias", index.index);
                return Err(self.mismatch(
                    "its mapping",
                    "without model, fingerprint and version in _meta",
                    "with them",
                    &advice,
                ));
            };
            if let Some(difference) = index.differences.first().filter(|_| origin.mapping_version == CURRENT_VERSION) {
                let found = format!("{}: {}", difference.part, difference.found);
                let advice = format!("{} was changed; use another alias and index the images again", index.index);
                return Err(self.mismatch("its mapping", &found, &difference.expected, &advice));
            }
            if common.is_some_and(|common| common != origin) {
                let advice = "remove all but one of its indices from the alias";
                return Err(self.mismatch(
                    "the alias",
                    "of indices made for several models or mappings",
                    "one",
                    advice,
                ));
            }
            common = Some(origin);
        }
        common.cloned().ok_or_else(|| Error::Missing { store: self.to_string() })
    }

    async fn state(&self, name: &str) -> Result<State, Error> {
        match self.client.send(Method::Get, name, Body::Empty, Patience::Lookup).await {
            Ok(answer) => state::read(name, &answer).map_err(|error| self.unreadable(&error, &answer)),
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
        match self.client.send(Method::Get, &path, Body::Empty, Patience::Lookup).await {
            Ok(_) => Ok(true),
            Err(client::Error::Reported { status: 404, .. }) => Ok(false),
            Err(error) => Err(self.failed(&error, Access::Read)),
        }
    }

    async fn change(&self, method: Method, path: &str, body: Value) -> Result<(), client::Error> {
        self.client.send(method, path, Body::Json(body), Patience::Change).await.map(drop)
    }

    fn mismatch(&self, what: &'static str, found: &str, expected: &str, advice: &str) -> Error {
        Error::Mismatch {
            store: self.to_string(),
            what,
            found: found.to_owned(),
            expected: expected.to_owned(),
            advice: advice.to_owned(),
        }
    }
}
