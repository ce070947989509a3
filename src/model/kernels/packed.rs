//! Packed weights: in this process's memory, or in a file beside the canonical weights that processes share.
//!
//! The file is a header of one page, as text, and the floats in little-endian order as they lie in memory. It is mapped, not
//! read: a start takes no time for it, and its pages are there once for all processes. The header names all that the floats
//! depend on; where it does not say what is expected, the file is packed again.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest as _, Sha256};

use super::memory::Buffer;
use super::plan::Layout;
use super::{Error, Settings};

/// Bytes of the header: a page, so that the floats behind it are aligned.
const HEADER: usize = 4096;

const _: () = assert!(cfg!(target_endian = "little"), "packed weights are mapped as they lie in the file");

/// Where packed weights are kept, and of which weights they are.
#[derive(Clone, Debug)]
pub struct Place {
    /// The canonical file, beside which the packed one lies.
    pub canonical: PathBuf,
    /// SHA-256 of the canonical file.
    pub sha256: String,
}

/// All weights of a network, packed.
pub(super) enum Packed {
    Memory(Buffer),
    File(Mmap),
}

impl Deref for Packed {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Self::Memory(buffer) => buffer,
            // SAFETY: floats lie behind the header, any bits are floats, and the header is a whole number of pages.
            Self::File(map) => unsafe {
                let floats = &map[HEADER..];
                std::slice::from_raw_parts(floats.as_ptr().cast(), floats.len() / size_of::<f32>())
            },
        }
    }
}

/// A file of packed weights, or none.
pub(super) struct PackFile {
    path: Option<PathBuf>,
    /// What its header begins with.
    header: String,
    floats: usize,
}

impl PackFile {
    /// The file of these settings and this layout.
    pub(super) fn new(settings: &Settings, lanes: usize, layout: &Layout) -> Self {
        let (kernel, plan, floats) = (settings.kernel.name(), settings.plan.name(), layout.len);
        let weights = settings.place.as_ref().map_or("none", |place| &place.sha256);
        let layout = layout.describe(lanes);
        let header = format!(
            "imgdex packed weights 1\nweights {weights}\nkernel {kernel}\nplan {plan}\n{layout}\nfloats {floats}\n"
        );
        let path = settings.place.as_ref().map(|place| place.canonical.with_extension(format!("{kernel}-{plan}.pack")));
        Self { path, header, floats }
    }

    /// Maps the file if it is there and what is expected. Its floats are taken as they are: [`PackFile::verify`] checks them.
    pub(super) fn open(&self) -> Option<Packed> {
        let path = self.path.as_ref()?;
        let mut file = File::open(path).ok()?;
        let mut header = vec![0; HEADER];
        let read = file.read_exact(&mut header).is_ok();
        let len = file.metadata().ok()?.len();
        if !read || !header.starts_with(self.header.as_bytes()) || len != self.file_len() {
            tracing::info!(path = %path.display(), "packed weights of something else; packing again");
            return None;
        }
        // SAFETY: nobody changes a file of this name: it is only ever replaced as a whole, by `write`, and the old one stays
        // as it is as long as it is mapped.
        unsafe { Mmap::map(&file) }.ok().map(Packed::File)
    }

    fn file_len(&self) -> u64 {
        (HEADER + self.floats * size_of::<f32>()) as u64
    }

    /// Writes the file and maps it. Where that is impossible, the weights stay in memory.
    pub(super) fn keep(&self, packed: Buffer) -> Packed {
        let Some(path) = &self.path else { return Packed::Memory(packed) };
        match self.write(path, &packed[..self.floats]) {
            Ok(()) => self.open().unwrap_or(Packed::Memory(packed)),
            Err(error) => {
                let path = path.display();
                tracing::warn!(%path, %error, "packed weights cannot be kept; every start packs them, and processes share none");
                Packed::Memory(packed)
            }
        }
    }

    fn write(&self, path: &Path, floats: &[f32]) -> io::Result<()> {
        // SAFETY: any float is four bytes.
        let bytes = unsafe { std::slice::from_raw_parts(floats.as_ptr().cast::<u8>(), size_of_val(floats)) };
        let mut header = self.complete(bytes).into_bytes();
        header.resize(HEADER, 0);
        // There as a whole or not at all, also after a power cut.
        let partial = path.with_extension(format!("{}.part", std::process::id()));
        let write = || {
            let mut file = File::create(&partial)?;
            file.write_all(&header)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&partial, path)
        };
        write().inspect_err(|_| drop(fs::remove_file(&partial)))
    }

    /// The header with the hash of the floats.
    fn complete(&self, floats: &[u8]) -> String {
        format!("{}sha256 {:x}\n", self.header, Sha256::digest(floats))
    }

    /// Reads the file and checks every byte. Returns its path; `None` where there is none.
    pub(super) fn verify(&self) -> Result<Option<&Path>, Error> {
        let Some(path) = self.path.as_deref().filter(|path| path.exists()) else { return Ok(None) };
        let damaged = |reason: String| Error::Damaged { path: path.to_owned(), reason };
        let bytes = fs::read(path).map_err(|error| damaged(error.to_string()))?;
        let (header, floats) = bytes.split_at_checked(HEADER).ok_or_else(|| damaged("it is cut off".to_owned()))?;
        if header.starts_with(self.complete(floats).as_bytes()) {
            Ok(Some(path))
        } else {
            Err(damaged("its content is not what was written".to_owned()))
        }
    }
}
