//! Weights: from the published files to one canonical file, and from there into the network.
//!
//! Every import ends in the same bytes: the model's tensors in a canonical form, as safetensors. The manifest lists their SHA-256,
//! and no other weights are ever loaded.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::manifest::{Weights, WeightsSource};
use crate::atomic_file;

/// Largest file that is read for an import; the known ones have 61 MB.
pub(super) const MAX_IMPORT_BYTES: u64 = 1 << 30;

/// Why there are no weights, or a file is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the weights are missing: there is no {}; fetch them with `imgdex model fetch`, or import a file with `imgdex \
         model import FILE`",
        path.display()
    )]
    Missing { path: PathBuf },
    /// The weight file holds something else.
    #[error(
        "{} is damaged or of another model: its SHA-256 is {found}, not {expected}; remove it and run `imgdex \
         model fetch`",
        path.display()
    )]
    Damaged { path: PathBuf, expected: String, found: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The file is too large to be one of the known ones.
    #[error("{} has {bytes} bytes or more; files with these weights have at most {MAX_IMPORT_BYTES}", path.display())]
    TooLarge { path: PathBuf, bytes: u64 },
    /// The file is not of its format.
    #[error("{} is no complete {format}: {reason}", path.display())]
    Malformed {
        path: PathBuf,
        /// By the first bytes.
        format: &'static str,
        reason: String,
    },
    /// The file holds other weights.
    #[error(
        "{} does not hold the weights of this model: expected a canonical SHA-256 of {expected}, found {found} (the \
         file's MD5 is {md5}, none of the known ones)",
        path.display()
    )]
    Foreign {
        path: PathBuf,
        expected: String,
        /// The SHA-256 of the canonical form.
        found: String,
        /// Of the file.
        md5: String,
    },
    #[error(
        "{url}: {reason}; `models/fetch.sh` tries another source too, and `imgdex model import FILE` takes a file from \
         elsewhere"
    )]
    Download { url: String, reason: String },
}

/// The origin of weights whose SHA-256 the manifest does not list: a genuine file.
///
/// A file whose MD5 is listed is genuine, also if its values give another canonical form.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImportReceipt {
    /// Of the canonical file.
    pub(super) sha256: String,
    /// Of the imported file, one of the manifest's sources.
    pub(super) source_md5: String,
}

/// The weight file in a model folder.
pub fn path(weights: &Weights, folder: &Path) -> PathBuf {
    folder.join(&weights.file)
}

/// A weight file that was read and checked.
#[derive(Debug)]
pub struct Loaded {
    pub path: PathBuf,
    pub bytes: Vec<u8>,
    pub sha256: String,
}

/// Reads the weight file and checks all of it.
///
/// # Errors
/// [`Error::Missing`], [`Error::Damaged`] or [`Error::Io`].
pub fn load(weights: &Weights, folder: &Path) -> Result<Loaded, Error> {
    let path = path(weights, folder);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Missing { path }),
        Err(source) => return Err(Error::Io { path, source }),
    };
    let found = format!("{:x}", Sha256::digest(&bytes));
    if found == weights.sha256 || has_receipt(weights, folder, &found)? {
        return Ok(Loaded { path, bytes, sha256: found });
    }
    Err(Error::Damaged { path, expected: weights.sha256.clone(), found })
}

pub(super) fn receipt_path(weights: &Weights, folder: &Path) -> PathBuf {
    path(weights, folder).with_extension("receipt.toml")
}

fn has_receipt(weights: &Weights, folder: &Path, sha256: &str) -> Result<bool, Error> {
    let path = receipt_path(weights, folder);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let receipt: ImportReceipt = toml::from_str(&text).map_err(|error| Error::Malformed {
                path,
                format: "receipt",
                reason: error.message().to_owned(),
            })?;
            Ok(receipt.sha256 == sha256 && is_known(weights, &receipt.source_md5))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Io { path, source }),
    }
}

pub(super) fn is_known(weights: &Weights, md5: &str) -> bool {
    weights.sources.iter().any(|source| source.md5 == md5)
}

/// The file of a download until it is complete and imported.
pub(super) fn download_path(source: &WeightsSource, folder: &Path) -> PathBuf {
    folder.join(format!("{}.download", source.md5))
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    atomic_file::write(path, &[bytes]).map_err(|source| Error::Io { path: path.to_owned(), source })
}
