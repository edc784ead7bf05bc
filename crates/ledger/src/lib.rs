//! The commit core of the service over a small port of rows.
