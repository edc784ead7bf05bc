//! The agent: composition root on a registered server.
