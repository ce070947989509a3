//! Manifests: the definitions of the models, and their fingerprints.
//!
//! The files under `models/` are compiled in, so a binary always has its own catalogue.

use serde::Deserialize;
use sha2::{Digest, Sha256};
use strum::IntoStaticStr;

use crate::decode::preprocess::{Preprocess, Sampling};

/// The model of a new store unless another is named.
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
    #[serde(rename = "network")]
    pub architecture: Architecture,
    /// The layer whose output is pooled.
    pub layer: Layer,
    /// How the layer's spatial positions become one value per channel.
    pub pooling: Pooling,
    /// Values in a feature vector.
    pub dims: usize,
    /// How the vector is scaled.
    pub normalisation: Normalisation,
    /// Whether no feature is ever negative; a dot product is a valid score only then.
    pub nonnegative: bool,
    /// How an image becomes network input.
    pub preprocess: Preprocess,
    /// Width and height of the network input in pixels.
    pub input_size: usize,
    /// The filter that the preprocessing resizes with.
    pub resize: Resize,
    /// The order in which the network takes the channels.
    pub channel_order: ChannelOrder,
    /// Subtracted from the channels (0 to 255), in `channel_order`.
    pub means: [f32; 3],
    /// What the channels are divided by after that, in `channel_order`; 1 where the file gives none.
    pub deviations: Option<[f32; 3]>,
    /// The weight file; a test double has none.
    pub weights: Option<Weights>,
    /// Fingerprints that this model had in earlier releases.
    #[serde(default)]
    pub earlier: Vec<Earlier>,
}

/// A fingerprint of an earlier release: vectors of a store that has it are not those of this release, but close to them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Earlier {
    pub fingerprint: String,
    /// What was different, as a clause.
    pub differs: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Architecture {
    /// The thirteen convolutions of VGG16.
    Vgg16,
    /// The test double.
    #[cfg(feature = "stub-model")]
    Stub,
}

/// A layer, by its name in Keras.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, IntoStaticStr)]
pub enum Layer {
    /// The last max pool: 512 channels of 7 x 7.
    #[serde(rename = "block5_pool")]
    #[strum(serialize = "block5_pool")]
    Block5Pool,
}

/// A pooling over all positions of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Pooling {
    Max,
}

/// The scaling of a feature vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Normalisation {
    /// Divided by the L2 norm.
    L2,
}

/// A resize filter, by Pillow's name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Resize {
    Nearest,
    /// Antialiased bicubic.
    Bicubic,
}

/// The order of the three channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum ChannelOrder {
    /// Red first, as images are decoded.
    Rgb,
    /// Blue first, as `OpenCV` and Caffe have it.
    Bgr,
}

/// The weight file of a model, and the credit for it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// Its name in the model folder.
    pub file: String,
    /// SHA-256 of the canonical file, in lower-case hexadecimal.
    pub sha256: String,
    /// The authors of the weights.
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
    pub sources: Vec<WeightsSource>,
}

/// A published file that holds the weights.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightsSource {
    /// For people.
    pub name: String,
    pub url: String,
    /// MD5 of the file, in lower-case hexadecimal: the sum that its publisher gives.
    pub md5: String,
}

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no model `{name}`; known: {}", known.join(", "))]
    Unknown { name: String, known: Vec<&'static str> },
    #[error("the manifest of model `{name}` is malformed: {source}")]
    Malformed { name: String, source: Box<toml::de::Error> },
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
    /// [`Error::Malformed`], which a test rules out for the files that are compiled in.
    pub fn catalogue() -> Result<Vec<Self>, Error> {
        FILES.iter().map(|(name, text)| Self::parse(name, text)).collect()
    }

    fn parse(name: &str, text: &str) -> Result<Self, Error> {
        toml::from_str(text).map_err(|source| Error::Malformed { name: name.to_owned(), source: Box::new(source) })
    }

    /// How an image becomes network input.
    pub fn sampling(&self) -> Sampling {
        Sampling { preprocess: self.preprocess, size: self.input_size }
    }

    /// Bytes of the largest network input of the catalogue.
    pub fn largest_input_bytes() -> usize {
        let sizes = Self::catalogue().unwrap_or_default().into_iter().map(|manifest| manifest.sampling().bytes());
        sizes.max().unwrap_or_default()
    }

    /// SHA-256, in lower-case hexadecimal, of everything that decides what a vector means.
    ///
    /// Hashed are lines of `key=value` (see `canonical`). Credit, licence, file name and the list of sources are left
    /// out: correcting them must not turn every existing store into a foreign one.
    pub fn fingerprint(&self) -> String {
        format!("{:x}", Sha256::digest(self.canonical()))
    }

    /// The canonical form: one `key=value` line each (`\n` after the last, too), in exactly this order; words as in the
    /// manifest file, means and deviations as the shortest decimals that give the same float32, separated by commas; `weights` is
    /// the SHA-256 of the canonical weight file, or `none`. There is a line of deviations only where the manifest gives them.
    fn canonical(&self) -> String {
        let Self { name, dims, nonnegative, input_size, means: [m0, m1, m2], .. } = self;
        let architecture: &str = self.architecture.into();
        let layer: &str = self.layer.into();
        let pooling: &str = self.pooling.into();
        let normalisation: &str = self.normalisation.into();
        let resize: &str = self.resize.into();
        let channel_order: &str = self.channel_order.into();
        let preprocess = self.preprocess.id();
        let deviations = self.deviations.map(|[d0, d1, d2]| format!("deviations={d0},{d1},{d2}\n")).unwrap_or_default();
        let weights = self.weights.as_ref().map_or("none", |weights| weights.sha256.as_str());
        format!(
            "name={name}\nnetwork={architecture}\nlayer={layer}\npooling={pooling}\ndims={dims}\n\
             normalisation={normalisation}\nnonnegative={nonnegative}\npreprocess={preprocess}\n\
             input_size={input_size}\nresize={resize}\nchannel_order={channel_order}\nmeans={m0},{m1},{m2}\n\
             {deviations}weights={weights}\n"
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Every store has the fingerprint of its model; a change here would make them all unusable.
    #[test]
    fn fingerprints_are_golden() {
        let fingerprint = |name| Manifest::find(name).unwrap().fingerprint();
        assert_eq!(fingerprint("vgg16"), "52e1986ecca580bfa04dace46e72c0ade2507486cc906b3ec514a9c3c0a5bfcd");
        assert_eq!(fingerprint("vgg16-keras"), "0c2328c749c4455e6e6799a819324f61165e3be82206ee9de3290aab43a64838");
    }

    #[test]
    fn canonical_form_is_as_documented() {
        let canonical = Manifest::find("vgg16-keras").unwrap().canonical();
        assert_eq!(
            canonical,
            "name=vgg16-keras\nnetwork=vgg16\nlayer=block5_pool\npooling=max\ndims=512\nnormalisation=l2\n\
             nonnegative=true\npreprocess=keras-imagenet-v2\ninput_size=224\nresize=nearest\nchannel_order=bgr\n\
             means=103.939,116.779,123.68\n\
             weights=d322682d98ebbe412f3853268057206aa6a3fce95978d4079006494d938d9a52\n"
        );
    }

    #[test]
    fn fingerprint_ignores_everything_that_does_not_decide_the_vector() {
        let manifest = Manifest::find("vgg16").unwrap();
        let mut corrected = manifest.clone();
        corrected.summary.clear();
        corrected.weights.as_mut().unwrap().credit.clear();
        assert_eq!(manifest.fingerprint(), corrected.fingerprint());
        corrected.means[0] = 0.0;
        assert_ne!(manifest.fingerprint(), corrected.fingerprint());
    }

    #[test]
    fn deviations_are_part_of_the_fingerprint_where_they_are_given() {
        let text = include_str!("../../models/vgg16.toml");
        let text = text.replace("[weights]", "deviations = [58.395, 57.12, 57.375]\n[weights]");
        let canonical = Manifest::parse("x", &text).unwrap().canonical();
        assert!(
            canonical.contains("\nmeans=103.939,116.779,123.68\ndeviations=58.395,57.12,57.375\nweights="),
            "{canonical}"
        );
    }

    #[test]
    fn catalogue_is_consistent() {
        let catalogue = Manifest::catalogue().unwrap();
        assert_eq!(catalogue[0].name, DEFAULT_MODEL);
        for manifest in &catalogue {
            assert_eq!(Manifest::find(&manifest.name).unwrap(), *manifest, "file and table disagree on the name");
            assert!(manifest.deviations.is_none_or(|deviations| deviations.iter().all(|deviation| *deviation > 0.0)));
            let resize = match manifest.preprocess {
                Preprocess::KerasImagenetV2 => Resize::Nearest,
                Preprocess::Imgdex2 => Resize::Bicubic,
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
        assert!(Manifest::parse("x", &text.replace("imgdex-2", "imgdex-0")).is_err());
        assert!(Manifest::parse("x", &text.replace("pooling = \"max\"", "pooling = \"avg\"")).is_err());
    }
}
