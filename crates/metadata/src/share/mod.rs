//! Rows of one share (`docs/formats/share.md`).
