//! The service: composition root of the control plane.
