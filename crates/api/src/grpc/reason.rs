//! Why a call was refused, in a form that programs read.

use tonic::{Code, Status, metadata::MetadataValue};

/// The metadata key of a refusal.
const KEY: &str = "polder-reason";

/// Why a call was refused. What is not here is an ordinary gRPC status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The other side speaks another version of the protocol.
    ProtocolVersion,
    /// No client certificate, or one of another authority, or one that has ended.
    NoCertificate,
    /// The server was revoked.
    Revoked,
    /// The join token is unknown, used or has ended.
    JoinToken,
    /// The wanted server name is taken.
    NameTaken,
    /// The endpoint is not this server's.
    NotYours,
    /// The opening is not the last accepted one: open again.
    NotOpen,
    /// The endpoint is stopped until a person has acted.
    Stopped,
    /// A message exceeds a bound or holds a value that cannot be.
    BadMessage,
    /// The pack is not what its footer or its name says.
    BadPack,
    /// Too much at once: wait and repeat.
    Busy,
    /// The store takes nothing more until somebody makes room.
    StoreFull,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::ProtocolVersion,
        Self::NoCertificate,
        Self::Revoked,
        Self::JoinToken,
        Self::NameTaken,
        Self::NotYours,
        Self::NotOpen,
        Self::Stopped,
        Self::BadMessage,
        Self::BadPack,
        Self::Busy,
        Self::StoreFull,
    ];

    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::ProtocolVersion => "protocol_version",
            Self::NoCertificate => "no_certificate",
            Self::Revoked => "revoked",
            Self::JoinToken => "join_token",
            Self::NameTaken => "name_taken",
            Self::NotYours => "not_yours",
            Self::NotOpen => "not_open",
            Self::Stopped => "stopped",
            Self::BadMessage => "bad_message",
            Self::BadPack => "bad_pack",
            Self::Busy => "busy",
            Self::StoreFull => "store_full",
        }
    }

    /// The gRPC code that goes with it.
    pub fn code(self) -> Code {
        match self {
            Self::NoCertificate | Self::Revoked => Code::Unauthenticated,
            Self::JoinToken | Self::NotYours => Code::PermissionDenied,
            Self::NameTaken => Code::AlreadyExists,
            Self::ProtocolVersion | Self::NotOpen | Self::Stopped => Code::FailedPrecondition,
            Self::BadMessage | Self::BadPack => Code::InvalidArgument,
            Self::Busy | Self::StoreFull => Code::ResourceExhausted,
        }
    }

    /// A status that carries the reason, with a line for people.
    pub fn status(self, message: impl Into<String>) -> Status {
        let mut status = Status::new(self.code(), message);
        status.metadata_mut().insert(KEY, MetadataValue::from_static(self.word()));
        status
    }

    /// The reason that a status carries.
    pub fn of(status: &Status) -> Option<Self> {
        let word = status.metadata().get(KEY)?.to_str().ok()?;
        Self::ALL.into_iter().find(|reason| reason.word() == word)
    }

    /// Whether the same call may succeed later without anybody acting.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Busy | Self::NotOpen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_its_status() {
        for reason in Reason::ALL {
            assert_eq!(Reason::of(&reason.status("why")), Some(reason));
        }
        assert_eq!(Reason::of(&Status::internal("why")), None);
    }
}
