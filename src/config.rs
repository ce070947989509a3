//! Settings: flag, environment, file, default, in this order.
