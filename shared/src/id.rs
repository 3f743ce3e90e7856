//! Identifiers: [TypeIDs](https://github.com/jetify-com/typeid/tree/main/spec), a prefix that names
//! the kind and a UUIDv7 in Crockford's base 32. People and the API see the text; the store keeps the
//! UUID, which sorts by time of creation in both engines.

use std::fmt;

use uuid::Uuid;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Why a text is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text names another kind, or none.
    #[error("expected an id that starts with `{expected}_`")]
    Prefix {
        /// The prefix of the wanted kind.
        expected: &'static str,
    },
    /// What follows the prefix is not 26 characters of the TypeID alphabet.
    #[error("an id has 26 characters of 0-9 and a-z (without i, l, o, u) after its prefix")]
    Suffix,
}

/// Writes a UUID as the 26 characters of a TypeID suffix.
pub fn encode(uuid: Uuid) -> String {
    let value = uuid.as_u128();
    (0..26).rev().map(|i| char::from(ALPHABET[((value >> (i * 5)) & 31) as usize])).collect()
}

/// Reads the 26 characters of a TypeID suffix.
///
/// # Errors
/// [`IdError::Suffix`] for another length, a foreign character, or a value beyond 128 bits.
pub fn decode(text: &str) -> Result<Uuid, IdError> {
    let bytes = text.as_bytes();
    if bytes.len() != 26 || bytes[0] > b'7' {
        return Err(IdError::Suffix);
    }
    let mut value = 0u128;
    for byte in bytes {
        let digit = ALPHABET.iter().position(|a| a == byte).ok_or(IdError::Suffix)?;
        value = (value << 5) | digit as u128;
    }
    Ok(Uuid::from_u128(value))
}

/// Makes a newtype over a UUID with its text form `prefix_…`, its serde form and its store form.
macro_rules! id {
    ($(#[$meta:meta])* $name:ident, $prefix:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The text before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// A fresh identifier; later ones sort after earlier ones.
            #[expect(clippy::new_without_default, reason = "an id is never a default")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "_{}"), encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let suffix = text
                    .strip_prefix(concat!($prefix, "_"))
                    .ok_or(IdError::Prefix { expected: $prefix })?;
                decode(suffix).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }
    };
}

id!(/// A user.
    UserId, "usr");
id!(/// A workspace, which owns everything below it.
    WorkspaceId, "wsp");
id!(/// A session of a browser.
    SessionId, "ses");
id!(/// An API key.
    ApiKeyId, "key");
id!(/// A source: an address that senders POST to.
    SourceId, "src");
id!(/// One signing secret of a source.
    SecretId, "sec");
id!(/// A destination.
    DestinationId, "dst");
id!(/// A subscription of a destination to a source.
    SubscriptionId, "sub");
id!(/// An event: one accepted request.
    EventId, "evt");
id!(/// A delivery: one event for one subscription.
    DeliveryId, "dlv");
id!(/// One HTTP request of a delivery.
    AttemptId, "att");
id!(/// One refused request.
    RejectionId, "rej");
id!(/// One answered handshake of a sender.
    HandshakeId, "hsk");
id!(/// One run of a worker process; it owns leases and slots.
    WorkerId, "wrk");
id!(/// One request that an inspector destination kept.
    InspectionId, "ins");
id!(/// Events that are sent again because a person asked.
    ReplayId, "rpl");
id!(/// One change of a circuit breaker.
    BreakerChangeId, "brk");
id!(/// One message that could not be persisted as an event.
    ParkedId, "prk");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_form_is_that_of_the_typeid_specification() {
        // From the specification's valid.json.
        for (suffix, uuid) in [
            ("00000000000000000000000000", "00000000-0000-0000-0000-000000000000"),
            ("00000000000000000000000001", "00000000-0000-0000-0000-000000000001"),
            ("0000000000000000000000000g", "00000000-0000-0000-0000-000000000010"),
            ("7zzzzzzzzzzzzzzzzzzzzzzzzz", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
            ("01h455vb4pex5vsknk084sn02q", "01890a5d-ac96-774b-bcce-b302099a8057"),
        ] {
            let uuid: Uuid = uuid.parse().unwrap();
            assert_eq!(encode(uuid), suffix);
            assert_eq!(decode(suffix), Ok(uuid));
        }
    }

    #[test]
    fn foreign_text_is_refused_with_the_wanted_prefix() {
        assert_eq!("evt_00000000000000000000000001".parse::<SourceId>(), Err(IdError::Prefix { expected: "src" }));
        for bad in ["src_8zzzzzzzzzzzzzzzzzzzzzzzzz", "src_0", "src_0000000000000000000000000l", "src_"] {
            assert_eq!(bad.parse::<SourceId>(), Err(IdError::Suffix), "{bad}");
        }
        let id = SourceId::new();
        assert_eq!(id.to_string().parse::<SourceId>(), Ok(id));
    }
}
