//! Tells an absent field from `null`, as changes need it (RFC 7396). Use with `default` and
//! `skip_serializing_if = "Option::is_none"`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Writes the inner value or `null`.
pub fn serialize<T: Serialize, S: Serializer>(value: &Option<Option<T>>, to: S) -> Result<S::Ok, S::Error> {
    value.as_ref().and_then(Option::as_ref).serialize(to)
}

/// Reads a field that is present.
pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(from).map(Some)
}
