//! Rows of the control plane: servers, groups, endpoints, tokens, audit log.
