//! The FUSE file system in front of a tiered endpoint.
