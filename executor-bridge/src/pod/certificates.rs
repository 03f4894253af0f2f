//! Certificates and keys from PEM, as Go's `crypto/tls` and `crypto/x509` take them. `tls` and `credential_plugin` use it.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{Error, InconsistentKeys};
use x509_cert::Certificate;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::time::Time;

/// Reads all blocks of a text: label and content. Go ignores text between blocks, as `openssl x509 -text` writes it.
fn blocks(text: &[u8]) -> Vec<(String, Vec<u8>)> {
    // Windows editors and YAML leave carriage returns and white space at the ends of lines.
    let lines = text.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii);
    let mut blocks = Vec::new();
    let mut open: Option<(String, Vec<u8>)> = None;
    for line in lines {
        let label = |prefix: &[u8]| {
            let label = line.strip_prefix(prefix)?.strip_suffix(b"-----")?;
            String::from_utf8(label.to_vec()).ok()
        };
        if let Some(label) = label(b"-----BEGIN ") {
            open = Some((label, Vec::new()));
        } else if let Some(label) = label(b"-----END ") {
            if let Some((begun, base64)) = open.take()
                && begun == label
                && let Ok(content) = data_encoding::BASE64.decode(&base64)
            {
                blocks.push((label, content));
            }
        } else if let Some((_, base64)) = &mut open {
            base64.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
        }
    }
    blocks
}

/// Returns the certificates of a text in their order. Other blocks are skipped.
pub(super) fn certificates(text: &[u8]) -> Vec<CertificateDer<'static>> {
    let certificates = blocks(text).into_iter().filter(|(label, _)| label == "CERTIFICATE");
    certificates.map(|(_, content)| content.into()).collect()
}

/// Returns the first private key of a text that the provider can use; the error is the end of a sentence.
fn private_key(text: &[u8], provider: &CryptoProvider) -> Result<Arc<dyn SigningKey>, String> {
    let blocks = blocks(text);
    let is_key = |label: &str| label == "PRIVATE KEY" || label.ends_with(" PRIVATE KEY");
    let Some((label, content)) = blocks.iter().find(|(label, _)| is_key(label)) else {
        return Err("holds no private key".into());
    };
    if label.starts_with("ENCRYPTED") {
        return Err("is encrypted, and kubectl and podbridge ask for no password; decrypt it".into());
    }
    // As in Go, the content counts and not the label.
    let forms = [
        PrivateKeyDer::Pkcs8(content.clone().into()),
        PrivateKeyDer::Pkcs1(content.clone().into()),
        PrivateKeyDer::Sec1(content.clone().into()),
    ];
    forms
        .into_iter()
        .find_map(|key| provider.key_provider.load_private_key(key).ok())
        .ok_or_else(|| "is neither an RSA, ECDSA (P-256, P-384) nor Ed25519 key, or is encrypted".into())
}

/// Loads a client certificate with its key; the error is a sentence without its end. X.509 version 1 is taken, as by kubectl: rustls' own
/// loading refuses it.
pub(super) fn key_pair(certificate: &[u8], key: &[u8], provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, String> {
    let chain = certificates(certificate);
    if chain.is_empty() {
        return Err("the client certificate holds no certificate in PEM form".into());
    }
    let key = private_key(key, provider).map_err(|error| format!("the client key {error}"))?;
    let pair = CertifiedKey::new(chain, key);
    // Other errors are those of webpki, which reads no certificates of version 1; the server decides on them.
    if let Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) = pair.keys_match() {
        return Err("the client key does not belong to the client certificate".into());
    }
    Ok(Arc::new(pair))
}

/// The parts of a certificate that the verifier compares.
pub(super) struct Parsed {
    certificate: Certificate,
}

impl Parsed {
    /// Parses DER; `None` if the certificate is malformed.
    pub(super) fn new(der: &CertificateDer<'_>) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        Some(Self { certificate })
    }

    /// Tells whether the certificate is valid at a time (since 1970).
    pub(super) fn is_valid_at(&self, now: std::time::Duration) -> bool {
        let validity = &self.certificate.tbs_certificate.validity;
        let seconds = |time: &Time| time.to_unix_duration();
        seconds(&validity.not_before) <= now && now <= seconds(&validity.not_after)
    }

    /// Returns the end of the validity, for messages.
    pub(super) fn not_after(&self) -> String {
        let after = &self.certificate.tbs_certificate.validity.not_after;
        after.to_date_time().to_string()
    }

    /// Tells whether this certificate's key signed another one, and its name is that one's issuer.
    pub(super) fn signed(&self, other: &Self, provider: &CryptoProvider) -> bool {
        let (issuer, subject) = (&self.certificate.tbs_certificate, &other.certificate.tbs_certificate);
        if issuer.subject != subject.issuer {
            return false;
        }
        let identifier = |algorithm: &x509_cert::spki::AlgorithmIdentifierOwned| {
            // rustls compares the content of the SEQUENCE, without its header.
            let oid = algorithm.oid.to_der().ok()?;
            let parameters = algorithm.parameters.as_ref().map(|any| any.to_der()).transpose().ok()?;
            Some([oid, parameters.unwrap_or_default()].concat())
        };
        let key = &issuer.subject_public_key_info;
        let (Some(key_algorithm), Some(signature_algorithm)) = (
            identifier(&key.algorithm),
            identifier(&other.certificate.signature_algorithm),
        ) else {
            return false;
        };
        let (Some(key), Some(signature)) = (
            key.subject_public_key.as_bytes(),
            other.certificate.signature.as_bytes(),
        ) else {
            return false;
        };
        let Ok(message) = subject.to_der() else { return false };
        provider.signature_verification_algorithms.all.iter().any(|algorithm| {
            algorithm.public_key_alg_id().as_ref() == key_algorithm
                && algorithm.signature_alg_id().as_ref() == signature_algorithm
                && algorithm.verify_signature(key, &message, signature).is_ok()
        })
    }

    /// Tells whether the certificate may sign others: an authority, or a certificate older than version 3.
    pub(super) fn is_authority(&self) -> bool {
        use x509_cert::ext::pkix::BasicConstraints;
        let subject = &self.certificate.tbs_certificate;
        match subject.get::<BasicConstraints>() {
            Ok(Some((_, constraints))) => constraints.ca,
            Ok(None) => subject.version != x509_cert::Version::V3,
            Err(_) => false,
        }
    }

    /// Tells whether the certificate may serve TLS: its extended key usage names servers, or any use, or is absent.
    pub(super) fn serves_tls(&self) -> bool {
        use x509_cert::der::oid::db::rfc5280::{ANY_EXTENDED_KEY_USAGE, ID_KP_SERVER_AUTH};
        use x509_cert::ext::pkix::ExtendedKeyUsage;
        match self.certificate.tbs_certificate.get::<ExtendedKeyUsage>() {
            Ok(Some((_, usage))) => usage
                .0
                .iter()
                .any(|purpose| [ID_KP_SERVER_AUTH, ANY_EXTENDED_KEY_USAGE].contains(purpose)),
            Ok(None) => true,
            Err(_) => false,
        }
    }
}

/// Returns the present time since 1970.
pub(super) fn now() -> std::time::Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_between_other_text() {
        let text = b"Certificate:\n  Data\n-----BEGIN CERTIFICATE-----\r\n  YWJj \r\nZGVm\r\n-----END CERTIFICATE-----\r\nx\n\
            -----BEGIN EC PARAMETERS-----\nAAAA\n-----END EC PARAMETERS-----\n-----BEGIN CERTIFICATE-----\nZ2hp\n-----END CERTIFICATE-----";
        let found = certificates(text);
        assert_eq!(found.len(), 2);
        assert_eq!((&found[0][..], &found[1][..]), (&b"abcdef"[..], &b"ghi"[..]));
        assert!(certificates(b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----").is_empty());
        assert!(certificates(b"").is_empty());
    }
}
