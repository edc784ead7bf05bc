//! Heat, policies and residency of tiered files.
