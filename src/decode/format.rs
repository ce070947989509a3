//! The formats that are decoded, and the size of an image.

use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

/// Width and height of the image as it is stored, before any orientation is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub width: u32,
    pub height: u32,
}

/// The formats that are decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, IntoStaticStr, Serialize, Deserialize)]
#[strum(serialize_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// JPEG, baseline and progressive.
    Jpeg,
    /// PNG, the first frame of an APNG.
    Png,
    /// WebP, the first frame of an animation.
    WebP,
    /// GIF, the first frame.
    Gif,
    Bmp,
    /// TIFF, only where it is allowed.
    Tiff,
}

impl Format {
    /// The name stored in documents.
    pub fn name(self) -> &'static str {
        self.into()
    }
}
