//! Packed weights: in this process's memory, or in a file beside the canonical weights that processes share.
//!
//! The file is a header of 4 KiB, as text, and the floats in little-endian order as they are in memory. It is mapped, not read: a
//! start takes no time for it, and all processes share its pages. The header names everything that the floats depend on, and its
//! hash is in the file's name. So no version of this program ever replaces a good file that another has mapped, not even on another
//! machine.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest as _, Sha256};

use super::plan::Layout;
use super::{Error, Settings};
use crate::atomic_file;
use crate::simd::Buffer;

/// Bytes of the header: whole cache lines, so that the floats after it are aligned.
const HEADER: usize = 4096;

const _: () = assert!(cfg!(target_endian = "little"), "packed weights are mapped as they are in the file");

/// The file of the canonical weights, beside which packed ones are kept.
#[derive(Clone, Debug)]
pub struct Canonical {
    pub path: PathBuf,
    pub sha256: String,
}

pub(super) enum Packed {
    Memory(Buffer),
    File(Mmap),
}

impl Deref for Packed {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Memory(buffer) => buffer,
            // SAFETY: floats follow the header, any bits are a float, and the header is whole cache lines.
            Self::File(map) => unsafe {
                let floats = &map[HEADER..];
                std::slice::from_raw_parts(floats.as_ptr().cast(), floats.len() / size_of::<f32>())
            },
        }
    }
}

/// The file of packed weights; without a path, weights stay in memory.
pub(super) struct PackFile {
    path: Option<PathBuf>,
    /// What its header begins with.
    header: String,
    floats: usize,
}

impl PackFile {
    pub(super) fn new(settings: &Settings, lanes: usize, layout: &Layout) -> Self {
        let (kernel, plan, floats) = (settings.instructions.name(), settings.plan.name(), layout.len);
        let weights = settings.canonical.as_ref().map_or("none", |canonical| &canonical.sha256);
        let layout = layout.describe(lanes);
        // The version is that of the order of packing.
        let header = format!("imgdex packed weights 1\nweights {weights}\n{layout}\nfloats {floats}\n");
        let key = format!("{:x}", Sha256::digest(&header));
        let extension = format!("{kernel}-{plan}-{}.pack", &key[..8]);
        let path = settings.canonical.as_ref().map(|canonical| canonical.path.with_extension(extension));
        Self { path, header, floats }
    }

    /// Maps the file if it is there and complete. Only [`PackFile::verify`] checks its floats.
    pub(super) fn open(&self) -> Option<Packed> {
        let path = self.path.as_ref()?;
        let mut file = File::open(path).ok()?;
        let mut header = vec![0; HEADER];
        let read = file.read_exact(&mut header).is_ok();
        let len = file.metadata().ok()?.len();
        if !read || !header.starts_with(self.header.as_bytes()) || len != self.file_len() {
            tracing::warn!(path = %path.display(), "a file of packed weights is damaged; packing again");
            return None;
        }
        // SAFETY: no process changes a file of this name: it appears complete, and only a damaged one is ever replaced.
        unsafe { Mmap::map(&file) }.ok().map(Packed::File)
    }

    fn file_len(&self) -> u64 {
        (HEADER + self.floats * size_of::<f32>()) as u64
    }

    /// Writes the file, checks it and maps it. Where that fails, the weights stay in memory.
    pub(super) fn keep(&self, packed: Buffer) -> Packed {
        let Some(path) = &self.path else { return Packed::Memory(packed) };
        match self.write_and_verify(path, &packed[..self.floats]) {
            Ok(()) => self.open().unwrap_or(Packed::Memory(packed)),
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "packed weights cannot be kept in a file; every start packs them, and processes do not share them");
                Packed::Memory(packed)
            }
        }
    }

    fn write_and_verify(&self, path: &Path, floats: &[f32]) -> Result<(), String> {
        self.write(path, floats).map_err(|error| error.to_string())?;
        // The next start would map the file without a check.
        let verified = self.verify().inspect_err(|_| drop(fs::remove_file(path)));
        verified.map(drop).map_err(|error| error.to_string())
    }

    fn write(&self, path: &Path, floats: &[f32]) -> io::Result<()> {
        // SAFETY: any float is four bytes.
        let bytes = unsafe { std::slice::from_raw_parts(floats.as_ptr().cast::<u8>(), size_of_val(floats)) };
        let mut header = self.complete(bytes).into_bytes();
        header.resize(HEADER, 0);
        atomic_file::write(path, &[&header, bytes])
    }

    /// The header with the hash of the floats.
    fn complete(&self, floats: &[u8]) -> String {
        format!("{}sha256 {:x}\n", self.header, Sha256::digest(floats))
    }

    /// Checks every byte of the file. Returns its path; `None` where there is none.
    pub(super) fn verify(&self) -> Result<Option<&Path>, Error> {
        let Some(path) = self.path.as_deref().filter(|path| path.exists()) else { return Ok(None) };
        let damaged = |reason: String| Error::Damaged { path: path.to_owned(), reason };
        let file = File::open(path).map_err(|error| damaged(error.to_string()))?;
        // SAFETY: as in `open`.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| damaged(error.to_string()))?;
        let (header, floats) = map.split_at_checked(HEADER).ok_or_else(|| damaged("it is cut off".to_owned()))?;
        if header.starts_with(self.complete(floats).as_bytes()) {
            Ok(Some(path))
        } else {
            Err(damaged("its content is not what was written".to_owned()))
        }
    }
}
