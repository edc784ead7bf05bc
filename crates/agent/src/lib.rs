//! The agent: composition root on a registered server. Its modules are joined when they are complete.
