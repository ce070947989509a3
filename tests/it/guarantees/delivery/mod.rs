//! From deliveries to documents: kills, redeliveries in any order, shutdown, readiness and counters.

mod accounting;
mod counters;
mod foreign;
mod kills;
mod order;
mod readiness;
mod shutdown;
