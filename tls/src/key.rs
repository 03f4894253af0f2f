//! A public key as both ends send it.

/// SubjectPublicKeyInfo of an Ed25519 key in DER (RFC 8410): this, and 32 bytes.
const PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const LENGTH: usize = PREFIX.len() + 32;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey([u8; LENGTH]);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key is no SubjectPublicKeyInfo of Ed25519")]
pub struct InvalidKey;

impl PublicKey {
    /// SubjectPublicKeyInfo in DER, 44 bytes.
    pub fn as_der(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for PublicKey {
    type Error = InvalidKey;

    fn try_from(der: Vec<u8>) -> Result<Self, InvalidKey> {
        let der = <[u8; LENGTH]>::try_from(der).map_err(|_| InvalidKey)?;
        if der.starts_with(&PREFIX) {
            Ok(Self(der))
        } else {
            Err(InvalidKey)
        }
    }
}
