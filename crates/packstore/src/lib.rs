//! Packs in object storage: the port, its forms, faults and conformance suite.
