//! The VGG16 graph on Candle tensors.
