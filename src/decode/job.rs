//! What is asked of one image, and what comes out. Pure and synchronous: the same in a process of its own and on a thread.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::{Deserialize, Serialize};

use super::pixels::Pixels;
use super::preprocess::Sampling;
use super::preprocess::view::View;
use super::raster::Limits;
use super::{Error, Format, Size, formats};

/// What is asked of one image.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub limits: Limits,
    /// Everything that one decoding should give.
    pub requests: Vec<Request>,
}

/// One thing made from the decoded image. What a later use asks for is another variant here and in [`Product`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// Network input.
    Pixels { sampling: Sampling, view: View },
}

/// What a [`Request`] gives.
#[derive(Debug)]
pub enum Product {
    Pixels(Pixels),
}

/// A decoded image: its properties, and one product for each request, in their order.
#[derive(Debug)]
pub struct Decoded {
    /// The size of the original.
    pub size: Size,
    /// The format of the original, by its magic bytes.
    pub format: Format,
    /// The share of the image that its file lacks, 0 to 1.
    pub missing: f32,
    pub products: Vec<Product>,
}

impl Job {
    /// The pixels that decoding holds at most, from the headers alone.
    pub fn measure(&self, bytes: &[u8]) -> Result<u64, Error> {
        formats::measure(bytes, &self.limits)
    }

    /// Decodes an image that has been [measured](Self::measure).
    pub fn run(&self, bytes: &[u8], measured: u64) -> Result<Decoded, Error> {
        let raster = formats::decode(bytes, &Limits { max_pixels: measured, ..self.limits })?;
        let products = self.requests.iter().map(|request| match request {
            Request::Pixels { sampling, view } => {
                Product::Pixels(sampling.preprocess.apply_to(&raster, view, sampling.size))
            }
        });
        Ok(Decoded { size: raster.size, format: raster.format, missing: raster.missing, products: products.collect() })
    }

    /// Bytes of all products.
    pub fn product_bytes(&self) -> usize {
        self.requests.iter().map(Request::bytes).sum()
    }
}

impl Request {
    /// Bytes of the product.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Pixels { sampling, .. } => sampling.bytes(),
        }
    }

    /// The product from its bytes; `None` unless they are as many as they should be.
    pub fn product(&self, bytes: &[u8]) -> Option<Product> {
        match self {
            Self::Pixels { sampling, .. } => Pixels::new(sampling.size, bytes.to_vec()).map(Product::Pixels),
        }
    }
}

impl Product {
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Pixels(pixels) => pixels.as_rgb(),
        }
    }
}

/// Runs work that may panic. A decoder that panicked is dropped with all its state, so none of it is used again.
pub fn contained<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let result = catch_unwind(AssertUnwindSafe(work));
    result.unwrap_or_else(|panic| Err(Error::Panicked { reason: panic_text(panic.as_ref()) }))
}

/// What a panic said.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "no message".to_owned()
    }
}
