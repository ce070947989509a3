//! The embedded store: SQLite on disk, an exact scan in memory.

use std::fmt;

use super::{Document, Error, Hit, Origin, Query, Write, Written};
use crate::model::manifest::Manifest;

/// A SQLite file.
pub struct Embedded {}

impl Embedded {
    /// See [`super::Store::open`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(_path: &std::path::Path) -> Result<Self, Error> {
        Ok(Self {})
    }

    /// See [`super::Store::origin`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn origin(&self) -> Result<Option<Origin>, Error> {
        Err(self.unfinished())
    }

    /// See [`super::Store::create`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create(&self, _model: &Manifest) -> Result<(), Error> {
        Err(self.unfinished())
    }

    /// See [`super::Store::write`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn write(&self, _batch: &[Write]) -> Result<Vec<Written>, Error> {
        Err(self.unfinished())
    }

    /// See [`super::Store::get`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, _id: &str) -> Result<Option<Document>, Error> {
        Err(self.unfinished())
    }

    /// See [`super::Store::search`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn search(&self, _query: &Query) -> Result<Vec<Hit>, Error> {
        Err(self.unfinished())
    }

    /// See [`super::Store::count`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn count(&self) -> Result<u64, Error> {
        Err(self.unfinished())
    }

    /// See [`super::Store::page`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn page(&self, _after: Option<&str>, _size: usize) -> Result<Vec<Document>, Error> {
        Err(self.unfinished())
    }

    fn unfinished(&self) -> Error {
        Error::Io { store: self.to_string(), reason: "not built yet".to_owned() }
    }
}

impl fmt::Display for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Embedded")
    }
}
