//! Bytes to chunks and back: chunker, extent trees, pack format, sealing.
