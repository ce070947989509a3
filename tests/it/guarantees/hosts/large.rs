//! Many large images at once.
