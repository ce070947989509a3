//! Dead letters: their confirmation, and the commands that list, replay and purge them.

mod commands;
mod confirmation;
