//! Features of the network on every kernel, and import, packing and download of its weights.

mod vgg16;
mod weights;
