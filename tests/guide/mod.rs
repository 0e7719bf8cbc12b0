//! The guide and the README say what the program does: their commands, flags, links and fields are real ones.

mod commands;
mod formats;
mod links;
mod page;
