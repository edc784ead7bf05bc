//! The files of a share on this disk: scan, watch, stage, apply, state database.
