//! The network: its features on every kernel, and the weights that a user brings.

mod vgg16;
mod weights;
