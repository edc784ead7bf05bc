//! gRPC between agents and the service: the generated messages, their conversion to `polder_types`, connections.
//!
//! Order of use, on both sides: messages of [`pb`] come from the wire and go through [`convert`], which bounds and
//! checks every value; what comes out is safe to use. Refusals of calls carry a [`Reason`].

#[expect(missing_docs, reason = "generated; the documentation is in proto/polder/v1/agent.proto")]
#[allow(clippy::all, clippy::too_many_lines, reason = "generated")]
pub mod pb {
    tonic::include_proto!("polder.v1");
}

pub mod answers;
pub mod convert;
pub mod limits;
mod reason;
mod secret;

pub use reason::Reason;
pub use secret::Secret;

/// Version of the protocol that this crate speaks. A service answers the versions that it knows and refuses others
/// in the first message ([`Reason::ProtocolVersion`]).
pub const PROTOCOL_VERSION: u32 = 1;
