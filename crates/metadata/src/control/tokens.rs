//! Tokens of people, and how secrets are kept.

use polder_types::Timestamp;
use serde::{Deserialize, Serialize};

use super::names::ParseError;
use super::rows::{self, Object, Rows, Table};
use super::{Acting, AuditNote, Control, ControlError, ObjectName, Role, audit};

/// Hash of a secret of at least 128 random bits. Nobody guesses such a secret, so the hash needs neither salt nor cost.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretHash(#[serde(with = "hex32")] pub [u8; 32]);

impl SecretHash {
    /// The hash of a secret's text.
    pub fn of(secret: &[u8]) -> Self {
        Self(blake3::derive_key("polder 2026-11-23 hash of a token's secret", secret))
    }

    /// The first 8 hexadecimal digits.
    pub fn short(&self) -> String {
        self.0[..4].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl PartialEq for SecretHash {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}
impl Eq for SecretHash {}

/// Public part of a token: finds its row. 16 hexadecimal digits as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(pub [u8; 8]);

impl std::fmt::Display for TokenId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for TokenId {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bytes = unhex(text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| ParseError::new(text, "a token's id: 16 hexadecimal digits"))
    }
}

impl TryFrom<String> for TokenId {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> Self {
        id.to_string()
    }
}

/// A person's or a tool's right to use the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserToken {
    /// Public part.
    pub id: TokenId,
    /// Unique; the audit log shows it.
    pub name: ObjectName,
    /// What it allows.
    pub role: Role,
    /// Hash of the secret part.
    pub hash: SecretHash,
    /// When it was made.
    pub created_at: Timestamp,
    /// Useless from then on, if ever.
    pub expires_at: Option<Timestamp>,
}

impl Object for UserToken {
    const TABLE: Table = Table::UserToken;
    fn key(&self) -> Vec<u8> {
        self.id.0.to_vec()
    }
    fn name(&self) -> Option<String> {
        Some(self.name.key())
    }
    fn shown(&self) -> String {
        self.name.to_string()
    }
}

fn deletable_token(rows: &dyn Rows, id: TokenId) -> Result<UserToken, ControlError> {
    let token: UserToken = rows::need(rows, &id.0)?;
    let lasts = |token: &UserToken| token.role == Role::Owner && token.expires_at.is_none();
    let owners = rows::all::<UserToken>(rows, None)?.iter().filter(|one| lasts(one)).count();
    if lasts(&token) && owners == 1 {
        let why = format!("the token \"{}\" is the last owner's: make another first", token.name);
        return Err(ControlError::Refused(why));
    }
    Ok(token)
}

impl Control {
    /// Keeps a new token.
    pub fn create_token(&self, acting: &Acting, token: &UserToken) -> Result<(), ControlError> {
        self.write(|rows| {
            rows::insert(rows, token)?;
            let detail = format!("id {} role {}", token.id, token.role);
            audit::append(rows, acting, &AuditNote::new("token.create", &token.name, detail))?;
            Ok(())
        })
    }

    /// The token with this public part and this secret, if it has not expired; else [`ControlError::BadToken`].
    pub fn check_token(
        &self,
        id: TokenId,
        secret: &SecretHash,
        now: Timestamp,
    ) -> Result<UserToken, ControlError> {
        let token: Option<UserToken> = self.read(|rows| rows::get(rows, &id.0))?;
        token
            .filter(|token| token.hash == *secret && token.expires_at.is_none_or(|end| now < end))
            .ok_or(ControlError::BadToken)
    }

    /// Every token.
    pub fn all_tokens(&self) -> Result<Vec<UserToken>, ControlError> {
        self.read(|rows| rows::all(rows, None))
    }

    /// The token with a name.
    pub fn token_named(&self, name: &ObjectName) -> Result<Option<UserToken>, ControlError> {
        self.read(|rows| rows::find(rows, &name.key()))
    }

    /// Makes the checks of [`Control::delete_token`] and nothing else.
    pub fn ensure_token_deletable(&self, id: TokenId) -> Result<(), ControlError> {
        self.read(|rows| deletable_token(rows, id).map(drop))
    }

    /// Removes a token; useless from the next request on. The last owner's token that never expires stays: without
    /// it nobody could make another.
    pub fn delete_token(&self, acting: &Acting, id: TokenId) -> Result<UserToken, ControlError> {
        self.write(|rows| {
            let token = deletable_token(rows, id)?;
            rows.delete(Table::UserToken, &id.0)?;
            audit::append(rows, acting, &AuditNote::new("token.delete", &token.name, format!("id {id}")))?;
            Ok(token)
        })
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? * 16 + digit(pair[1])?)).collect()
}

/// Bytes as hexadecimal text in documents.
pub(super) mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        super::unhex(&text).ok_or_else(|| D::Error::custom("not hexadecimal"))
    }
}

/// 32 bytes as hexadecimal text in documents.
pub(super) mod hex32 {
    use serde::{Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        super::hex_bytes::serialize(bytes, to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let bytes = super::hex_bytes::deserialize(from)?;
        bytes.try_into().map_err(|_| D::Error::custom("not 32 bytes"))
    }
}
