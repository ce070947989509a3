//! Manifests: what a model is, and the fingerprint of all of it.
//!
//! The files lie under `models/` and are compiled in, so a binary and its catalogue cannot drift apart.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::decode::preprocess::Preprocess;

/// The model of a new store when none is named.
pub const DEFAULT_MODEL: &str = "vgg16";

const FILES: &[(&str, &str)] = &[
    ("vgg16", include_str!("../../models/vgg16.toml")),
    ("vgg16-keras", include_str!("../../models/vgg16-keras.toml")),
    #[cfg(feature = "stub-model")]
    ("stub", include_str!("../../models/stub.toml")),
];

/// A model of the catalogue, from its file under `models/`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The name in the catalogue: `vgg16` or `vgg16-keras`.
    pub name: String,
    /// One line for people.
    pub summary: String,
    /// The architecture that computes the features.
    pub network: Network,
    /// The layer whose output is pooled.
    pub layer: Layer,
    /// How the layer's spatial positions become one value per channel.
    pub pooling: Pooling,
    /// Values in a feature vector.
    pub dims: usize,
    /// What is done to the vector at last.
    pub normalisation: Normalisation,
    /// Whether no feature is ever negative; a dot product is a valid score only then.
    pub nonnegative: bool,
    /// How an image becomes network input; see [`Manifest::preprocess`].
    #[serde(deserialize_with = "preprocess_by_id")]
    preprocess: Preprocess,
    /// Width and height of the network input in pixels.
    pub input_size: usize,
    /// The filter that the preprocessing resizes with.
    pub resize: Resize,
    /// The order in which the network takes the channels.
    pub channel_order: ChannelOrder,
    /// Subtracted from the channels (0 to 255), in `channel_order`.
    pub means: [f32; 3],
    /// The weight file; a test double has none.
    pub weights: Option<Weights>,
}

/// An architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The thirteen convolutions of VGG16.
    Vgg16,
    /// The test double.
    #[cfg(feature = "stub-model")]
    Stub,
}

/// A layer, by its name in Keras.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Layer {
    /// The last max pool: 512 channels of 7 x 7.
    #[serde(rename = "block5_pool")]
    Block5Pool,
}

/// A pooling over all positions of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The maximum.
    Max,
}

/// The scaling of a feature vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalisation {
    /// Divided by the L2 norm.
    L2,
}

/// A resize filter, by Pillow's name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// The nearest pixel.
    Nearest,
    /// Antialiased bicubic.
    Bicubic,
}

/// The order of the three channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelOrder {
    /// Red first, as images are decoded.
    Rgb,
    /// Blue first, as `OpenCV` and Caffe have it.
    Bgr,
}

/// The weight file of a model, and whose work it is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// Its name in the model folder.
    pub file: String,
    /// SHA-256 of the canonical file, in lower-case hexadecimal.
    pub sha256: String,
    /// Who made the weights.
    pub credit: String,
    /// Their licence, as an SPDX identifier.
    pub licence: String,
    /// Where the licence can be read.
    pub licence_url: String,
    /// Where the weights were first published.
    pub origin: String,
    /// What was changed since.
    pub changes: String,
    /// Files known to hold these weights; the first is the official one.
    pub sources: Vec<Source>,
}

/// A published file that holds the weights.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// For people.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// MD5 of the file, in lower-case hexadecimal: the sum that its publisher gives.
    pub md5: String,
}

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No model of this name.
    #[error("there is no model `{name}`; known: {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// The names of the catalogue.
        known: Vec<&'static str>,
    },
    /// A manifest does not parse.
    #[error("the manifest of model `{name}` is malformed: {source}")]
    Malformed {
        /// The model's name.
        name: String,
        /// What the parser said.
        source: Box<toml::de::Error>,
    },
}

impl Manifest {
    /// The model of this name.
    ///
    /// # Errors
    /// [`Error::Unknown`], which names the known ones.
    pub fn find(name: &str) -> Result<Self, Error> {
        match FILES.iter().find(|(known, _)| *known == name) {
            Some((known, text)) => Self::parse(known, text),
            None => {
                Err(Error::Unknown { name: name.to_owned(), known: FILES.iter().map(|(known, _)| *known).collect() })
            }
        }
    }

    /// All models, the default first.
    ///
    /// # Errors
    /// [`Error::Malformed`], which a test rules out for what is compiled in.
    pub fn catalogue() -> Result<Vec<Self>, Error> {
        FILES.iter().map(|(name, text)| Self::parse(name, text)).collect()
    }

    fn parse(name: &str, text: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|source| Error::Malformed { name: name.to_owned(), source: Box::new(source) })
    }

    /// How an image becomes network input.
    pub fn preprocess(&self) -> Preprocess {
        self.preprocess
    }

    /// The id of the preprocessing, as the manifest file names it.
    pub fn preprocess_id(&self) -> &'static str {
        match self.preprocess {
            Preprocess::KerasImagenetV1 => KERAS_IMAGENET_V1,
            Preprocess::Imgdex1 => IMGDEX_1,
        }
    }

    /// SHA-256, in lower-case hexadecimal, of everything that decides what a vector means.
    ///
    /// Hashed are lines of `key=value` (see `canonical`). Credit, licence, file name and the list of sources are left
    /// out: correcting them must not turn every existing store into a foreign one.
    pub fn fingerprint(&self) -> String {
        format!("{:x}", Sha256::digest(self.canonical()))
    }

    /// The canonical form: one `key=value` line each (`\n` after the last, too), in exactly this order; words as in the
    /// manifest file, means as the shortest decimals that give the same float32, separated by commas; `weights` is the
    /// SHA-256 of the canonical weight file, or `none`.
    fn canonical(&self) -> String {
        let Self { name, dims, nonnegative, input_size, means: [m0, m1, m2], .. } = self;
        let network = match self.network {
            Network::Vgg16 => "vgg16",
            #[cfg(feature = "stub-model")]
            Network::Stub => "stub",
        };
        let layer = match self.layer {
            Layer::Block5Pool => "block5_pool",
        };
        let pooling = match self.pooling {
            Pooling::Max => "max",
        };
        let normalisation = match self.normalisation {
            Normalisation::L2 => "l2",
        };
        let resize = match self.resize {
            Resize::Nearest => "nearest",
            Resize::Bicubic => "bicubic",
        };
        let channel_order = match self.channel_order {
            ChannelOrder::Rgb => "rgb",
            ChannelOrder::Bgr => "bgr",
        };
        let preprocess = self.preprocess_id();
        let weights = self.weights.as_ref().map_or("none", |weights| weights.sha256.as_str());
        format!(
            "name={name}\nnetwork={network}\nlayer={layer}\npooling={pooling}\ndims={dims}\n\
             normalisation={normalisation}\nnonnegative={nonnegative}\npreprocess={preprocess}\n\
             input_size={input_size}\nresize={resize}\nchannel_order={channel_order}\nmeans={m0},{m1},{m2}\n\
             weights={weights}\n"
        )
    }
}

const KERAS_IMAGENET_V1: &str = "keras-imagenet-v1";
const IMGDEX_1: &str = "imgdex-1";

fn preprocess_by_id<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Preprocess, D::Error> {
    let id = String::deserialize(deserializer)?;
    match id.as_str() {
        KERAS_IMAGENET_V1 => Ok(Preprocess::KerasImagenetV1),
        IMGDEX_1 => Ok(Preprocess::Imgdex1),
        _ => Err(serde::de::Error::unknown_variant(&id, &[KERAS_IMAGENET_V1, IMGDEX_1])),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::decode::pixels::INPUT_SIZE;

    /// A released fingerprint is written into every store; a change here makes them all foreign.
    #[test]
    fn fingerprints_are_golden() {
        let fingerprint = |name| Manifest::find(name).unwrap().fingerprint();
        assert_eq!(fingerprint("vgg16"), "e5e6ee591ab8d94177376b0b0e8ff7f64d6ac000d91a85213f04bbc29e6f6d89");
        assert_eq!(fingerprint("vgg16-keras"), "a968a376d9cc100b4cb16ae9ba9627e5ab53ad64b63fb97bfb667310e03e025c");
    }

    #[test]
    fn canonical_form_is_as_documented() {
        let canonical = Manifest::find("vgg16-keras").unwrap().canonical();
        assert_eq!(
            canonical,
            "name=vgg16-keras\nnetwork=vgg16\nlayer=block5_pool\npooling=max\ndims=512\nnormalisation=l2\n\
             nonnegative=true\npreprocess=keras-imagenet-v1\ninput_size=224\nresize=nearest\nchannel_order=bgr\n\
             means=103.939,116.779,123.68\n\
             weights=d322682d98ebbe412f3853268057206aa6a3fce95978d4079006494d938d9a52\n"
        );
    }

    #[test]
    fn fingerprint_ignores_what_does_not_decide_the_vector() {
        let manifest = Manifest::find("vgg16").unwrap();
        let mut corrected = manifest.clone();
        corrected.summary.clear();
        corrected.weights.as_mut().unwrap().credit.clear();
        assert_eq!(manifest.fingerprint(), corrected.fingerprint());
        corrected.means[0] = 0.0;
        assert_ne!(manifest.fingerprint(), corrected.fingerprint());
    }

    #[test]
    fn catalogue_is_consistent() {
        let catalogue = Manifest::catalogue().unwrap();
        assert_eq!(catalogue[0].name, DEFAULT_MODEL);
        for manifest in &catalogue {
            assert_eq!(Manifest::find(&manifest.name).unwrap(), *manifest, "file and table disagree on the name");
            assert_eq!(manifest.input_size, INPUT_SIZE);
            let resize = match manifest.preprocess() {
                Preprocess::KerasImagenetV1 => Resize::Nearest,
                Preprocess::Imgdex1 => Resize::Bicubic,
            };
            assert_eq!(manifest.resize, resize, "{}", manifest.name);
        }
        assert_eq!(catalogue[0].weights, catalogue[1].weights, "both models share one file");
    }

    #[test]
    fn unknown_model_names_the_known_ones() {
        let message = Manifest::find("vgg19").unwrap_err().to_string();
        assert!(message.starts_with("there is no model `vgg19`; known: vgg16, vgg16-keras"), "{message}");
    }

    #[test]
    fn unknown_keys_and_values_are_refused() {
        let text = include_str!("../../models/vgg16.toml");
        assert!(Manifest::parse("x", text).is_ok());
        assert!(Manifest::parse("x", &format!("colour = 1\n{text}")).is_err());
        assert!(Manifest::parse("x", &format!("{text}sha1 = \"\"\n")).is_err());
        assert!(Manifest::parse("x", &text.replace("imgdex-1", "imgdex-2")).is_err());
        assert!(Manifest::parse("x", &text.replace("pooling = \"max\"", "pooling = \"avg\"")).is_err());
    }
}
