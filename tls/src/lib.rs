//! The trust of a direct link: each end makes a key of its own when it needs one, learns the other's over a link that Kubernetes
//! guards, and then speaks to the owner of that key alone. TLS 1.3 with raw public keys (RFC 7250), proven by both ends; names and
//! authorities have no part in it. Agent and bridge call it; sockets are theirs.

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

/// That the system gives no key is all that a caller can say of it.
#[derive(Debug, thiserror::Error)]
#[error("no key could be made for TLS")]
pub struct KeyGenerationError;

/// One end: a private key that never leaves the process.
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
    pub fn new() -> Result<Self, KeyGenerationError> {
        let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyGenerationError)?;
        let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(pair.as_ref())).map_err(|_| KeyGenerationError)?;
        let public = key.public_key().ok_or(KeyGenerationError)?.to_vec();
        // With raw public keys the key is what a certificate would be.
        let certified = CertifiedKey::new(vec![CertificateDer::from(public.clone())], key);
        Ok(Self {
            certified: Arc::new(certified),
            public: PublicKey::try_from(public).map_err(|_| KeyGenerationError)?,
        })
    }

    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// Accepts whoever proves one of these keys, as they are at that moment.
    pub fn server_config(&self, enrolled: Arc<AllowedKeys>) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(KeyVerifier::new(enrolled)))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(self.certified.clone())));
        // Who comes again proves his key again.
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Speaks to the owner of this key.
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
