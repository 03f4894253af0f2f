//! Public key in the form in which both ends send it.

/// Start of the DER encoding of an Ed25519 SubjectPublicKeyInfo (RFC 8410); the 32 bytes of the key follow.
const DER_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const DER_LENGTH: usize = DER_PREFIX.len() + 32;

/// An Ed25519 public key as SubjectPublicKeyInfo in DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey([u8; DER_LENGTH]);

/// The bytes are not an Ed25519 public key in the expected form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key is not an Ed25519 SubjectPublicKeyInfo")]
pub struct InvalidKey;

impl PublicKey {
    /// Returns the SubjectPublicKeyInfo in DER, 44 bytes.
    pub fn as_der(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for PublicKey {
    type Error = InvalidKey;

    fn try_from(der: Vec<u8>) -> Result<Self, InvalidKey> {
        let der = <[u8; DER_LENGTH]>::try_from(der).map_err(|_| InvalidKey)?;
        if der.starts_with(&DER_PREFIX) {
            Ok(Self(der))
        } else {
            Err(InvalidKey)
        }
    }
}
