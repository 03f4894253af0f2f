//! TLS of a direct link. Each end makes a key of its own when it needs one, learns the other's key over a link that Kubernetes protects,
//! and then talks to the owner of that key only (docs/adr/0013).
//!
//! Both ends use TLS 1.3 with raw public keys (RFC 7250) and prove that they own theirs. Host names and certificate authorities are not
//! used. The agent and the bridge call this crate; it opens no socket and reads no file.

mod allowed_keys;
mod key;
mod provider;
mod verifier;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use ring::rand::SystemRandom;
use ring::signature::Ed25519KeyPair;
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

pub use allowed_keys::AllowedKeys;
pub use key::{InvalidKey, PublicKey};
use provider::provider;
use verifier::KeyVerifier;

/// The system could not make a key pair. The cause is not reported: neither ring nor rustls names one.
#[derive(Debug, thiserror::Error)]
#[error("the system could not make a key for TLS")]
pub struct KeyGenerationError;

/// Key pair of one end. The private key never leaves the process.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    public: PublicKey,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.public).finish()
    }
}

impl Identity {
    /// Makes a new Ed25519 key pair.
    pub fn new() -> Result<Self, KeyGenerationError> {
        let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyGenerationError)?;
        let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(pair.as_ref())).map_err(|_| KeyGenerationError)?;
        let public = key.public_key().ok_or(KeyGenerationError)?.to_vec();
        // With raw public keys, rustls expects the public key in place of a certificate.
        let certified = CertifiedKey::new(vec![CertificateDer::from(public.clone())], key);
        Ok(Self {
            certified: Arc::new(certified),
            public: PublicKey::try_from(public).map_err(|_| KeyGenerationError)?,
        })
    }

    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Returns the settings of a server that accepts clients that prove an allowed key. Keys may be added later; each handshake uses the
    /// keys of its moment.
    pub fn server_config(&self, allowed_keys: Arc<AllowedKeys>) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(KeyVerifier::new(allowed_keys)))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(self.certified.clone())));
        // Without session tickets, so that a client that reconnects proves its key again.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Returns the settings of a client that accepts only the server that proves the key `peer`.
    pub fn client_config(&self, peer: PublicKey) -> Result<ClientConfig, rustls::Error> {
        let expected = Arc::new(AllowedKeys::default());
        expected.add(peer);
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(KeyVerifier::new(expected)))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(self.certified.clone())));
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        Ok(config)
    }
}
