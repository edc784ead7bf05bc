//! The command line against an in-process service and agent: hermetic (own environment, fixed width, no clock).

mod exits;
mod fake;
mod files;
mod guards;
mod here;
mod reference;
mod settings;
mod shell;
mod tables;
