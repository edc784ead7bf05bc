//! The contract: gRPC for agents, REST for people, the control socket, and their clients.
//!
//! The reason for this crate: a service, its agents and its tools are upgraded apart from each other, so what they
//! say to each other is described in one place, versioned, and known to nobody's database or disk.
//!
//! Architecture invariant: values from outside become `polder_types` values here or not at all; nothing unbounded
//! and nothing unchecked leaves [`grpc::convert`].
//!
//! Architecture invariant: no server lives here. Handlers are `polder_service`'s and `polder_agent`'s.

pub mod control;
pub mod grpc;
pub mod left_behind;
pub mod rest;
