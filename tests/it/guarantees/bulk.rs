//! Batches of writes: each item its own fate, storms of 429, requests that are too large.
