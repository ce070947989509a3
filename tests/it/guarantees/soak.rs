//! Everything at once, at random from a seed.
