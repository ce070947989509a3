//! Dead letters: how they are confirmed, and the commands that look at them and bring them back.

mod commands;
mod confirmation;
