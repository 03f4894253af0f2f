//! Byte strings in JSON: a string where they are UTF-8, `{"b64": …}` where they are not. Paths, arguments and environment
//! values are bytes on Linux.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ByteString(pub Vec<u8>);

impl From<&str> for ByteString {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl Serialize for ByteString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("b64", &STANDARD.encode(&self.0))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for ByteString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = ByteString;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or {\"b64\": …}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteString, E> {
                Ok(ByteString::from(text))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ByteString, A::Error> {
                let Some((key, text)) = map.next_entry::<String, String>()? else {
                    return Err(de::Error::missing_field("b64"));
                };
                if key != "b64" || map.next_key::<String>()?.is_some() {
                    return Err(de::Error::custom("a byte string has one key, b64"));
                }
                let bytes = STANDARD.decode(text).map_err(de::Error::custom)?;
                Ok(ByteString(bytes))
            }
        }

        deserializer.deserialize_any(Either)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_survive() {
        for bytes in [&b"plain"[..], "żółw".as_bytes(), b"\xff\x00"] {
            let original = ByteString(bytes.to_vec());
            let json = serde_json::to_string(&original).unwrap();
            assert_eq!(json.starts_with('{'), std::str::from_utf8(bytes).is_err());
            assert_eq!(serde_json::from_str::<ByteString>(&json).unwrap(), original);
        }
    }

    #[test]
    fn other_shapes_are_refused() {
        for json in [
            "1",
            "{}",
            r#"{"b64":"!"}"#,
            r#"{"b65":"YQ=="}"#,
            r#"{"b64":"YQ==","x":"y"}"#,
        ] {
            assert!(serde_json::from_str::<ByteString>(json).is_err(), "{json}");
        }
    }
}
