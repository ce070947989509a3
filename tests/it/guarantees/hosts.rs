//! Slow and hostile hosts, hostile images, and the memory that they may cost.
