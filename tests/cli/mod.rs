//! The program from outside: exit codes, output, and one clear line for every mistake.

mod checkpoints;
mod data;
mod first;
mod older;
mod places;
mod report;
mod settings;
mod tools;
