//! The rows of shares and of the control plane: memory and SQLite under one conformance suite.
