//! From one delivery to one document: over kills, in any order, to the last message when a worker is asked to stop.

/// What is published is a document or a dead letter with its reason.
mod accounting;
/// Every delivery has one outcome, and the metrics say so at every moment.
mod counters;
/// Indices that are not for this worker.
mod foreign;
/// Workers that are killed.
mod kills;
/// Versions that arrive in any order.
mod order;
/// What `/ready` and `/live` say while services are down.
mod readiness;
/// Workers that are asked to stop.
mod shutdown;
