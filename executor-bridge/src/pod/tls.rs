//! TLS to API servers and proxies, with the verdicts of Go's `crypto/x509`: what kubectl accepts is accepted, and no more. `settings` says
//! which files count; `connector` uses the result.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::error::{Failure, Kind};
use crate::pod::certificates::{self, Parsed};

/// Longest chain of intermediate certificates that is followed.
const MAX_DEPTH: usize = 8;

/// PEM from a file or from the kubeconfig itself.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum PemSource {
    File(PathBuf),
    Data(Vec<u8>),
}

impl PemSource {
    fn read(&self, what: &str) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Data(data) => Ok(data.clone()),
            Self::File(path) => std::fs::read(path).map_err(|error| {
                Failure::new(
                    Kind::Kubeconfig,
                    format!("the {what} {} cannot be read: {error}", path.display()),
                )
            }),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Data(_) => "in the kubeconfig".into(),
        }
    }
}

/// Settings of the TLS connection.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct TlsSettings {
    /// `None` trusts the authorities of this host.
    pub(super) authority: Option<PemSource>,
    pub(super) insecure: bool,
    /// Name in the server's certificate, if it is another one than the URL's.
    pub(super) server_name: Option<String>,
    /// Client certificate and key.
    pub(super) identity: Option<(PemSource, PemSource)>,
}

impl TlsSettings {
    /// Reads the files and builds rustls' settings. `plugin` gives the certificate of a credential plugin.
    pub(super) fn client_config(&self, plugin: Option<Arc<dyn ResolvesClientCert>>) -> Result<ClientConfig, Failure> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = if self.insecure {
            if self.authority.is_some() {
                return Err(unusable(
                    "a certificate-authority and insecure-skip-tls-verify exclude each other: remove one of them",
                ));
            }
            Arc::new(NoVerifier(provider.clone()))
        } else {
            Arc::new(GoVerifier::new(self.roots()?, provider.clone())?)
        };
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::bug(&format!("TLS cannot be set up: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let identity: Option<Arc<dyn ResolvesClientCert>> = match &self.identity {
            Some((certificate, key)) => {
                let pair = certificates::key_pair(
                    &certificate.read("client certificate")?,
                    &key.read("client key")?,
                    &provider,
                );
                let pair = pair.map_err(|error| {
                    unusable(&format!(
                        "{error} (certificate: {}, key: {})",
                        certificate.shown(),
                        key.shown()
                    ))
                })?;
                Some(Arc::new(FixedIdentity(pair)))
            }
            None => plugin,
        };
        let mut config = match identity {
            Some(identity) => builder.with_client_cert_resolver(identity),
            None => builder.with_no_client_auth(),
        };
        // A client is made for each dial, so that it would resume nothing.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// Returns the name that a certificate of `host` must have.
    pub(super) fn name_of(&self, host: &str) -> Result<ServerName<'static>, Failure> {
        let name = self.server_name.as_deref().unwrap_or(host);
        // A zone belongs to this host's routing and is not in a certificate.
        let name = name.split('%').next().unwrap_or_default();
        ServerName::try_from(name.to_owned())
            .map_err(|_| unusable(&format!("{name:?} is not a name that a certificate can have")))
    }

    fn roots(&self) -> Result<Vec<CertificateDer<'static>>, Failure> {
        let Some(source) = &self.authority else {
            let native = rustls_native_certs::load_native_certs();
            if native.certs.is_empty() {
                return Err(unusable(
                    "the kubeconfig names no certificate-authority, and this host has no certificate authorities: set \
                     certificate-authority, or install ca-certificates",
                ));
            }
            return Ok(native.certs);
        };
        let roots = certificates::certificates(&source.read("certificate-authority")?);
        let now = certificates::now();
        let parsed: Vec<_> = roots.iter().filter_map(Parsed::new).collect();
        if parsed.is_empty() {
            return Err(unusable(&format!(
                "the certificate-authority {} holds no certificate in PEM form",
                source.shown()
            )));
        }
        if !parsed.iter().any(|root| root.is_valid_at(now)) {
            return Err(unusable(&format!(
                "the certificate-authority {} is not valid now (it ends {}); install the current one",
                source.shown(),
                parsed[0].not_after()
            )));
        }
        Ok(roots)
    }
}

fn unusable(why: &str) -> Failure {
    Failure::new(Kind::Kubeconfig, why)
}

#[derive(Debug)]
struct FixedIdentity(Arc<CertifiedKey>);

impl ResolvesClientCert for FixedIdentity {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // As Go: the certificate is sent whatever authorities the server names; without a common signature scheme there is none to send.
        self.0.key.choose_scheme(schemes).map(|_| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// webpki's verifier, and beside it the cases in which Go trusts a certificate that webpki refuses: a root that serves by itself, and a
/// server's certificate that says it is an authority.
#[derive(Debug)]
struct GoVerifier {
    /// `None` if webpki can use none of the roots.
    webpki: Option<Arc<WebPkiServerVerifier>>,
    roots: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl GoVerifier {
    fn new(roots: Vec<CertificateDer<'static>>, provider: Arc<CryptoProvider>) -> Result<Self, Failure> {
        let now = certificates::now();
        let mut store = RootCertStore::empty();
        // webpki does not look at a root's validity, Go does.
        let roots: Vec<_> = roots
            .into_iter()
            .filter(|root| Parsed::new(root).is_some_and(|root| root.is_valid_at(now)))
            .collect();
        // Nor does webpki ask whether a root may sign; one that may not is trusted as a server alone.
        let authorities = roots
            .iter()
            .filter(|root| Parsed::new(root).is_some_and(|root| root.is_authority()));
        store.add_parsable_certificates(authorities.cloned());
        let webpki = if store.is_empty() {
            None
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone());
            Some(builder.build().map_err(|error| unusable(&error.to_string()))?)
        };
        Ok(Self {
            webpki,
            roots,
            provider,
        })
    }

    /// Follows a chain as Go does, without webpki's rule that an authority is no server.
    fn verify_as_go(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Option<ServerCertVerified> {
        let now = std::time::Duration::from_secs(now.as_secs());
        verify_server_name(&ParsedCertificate::try_from(leaf).ok()?, name).ok()?;
        let parsed = Parsed::new(leaf)?;
        if !parsed.is_valid_at(now) || !parsed.serves_tls() {
            return None;
        }
        if self.roots.iter().any(|root| root == leaf) {
            return Some(ServerCertVerified::assertion());
        }
        let roots: Vec<_> = self.roots.iter().filter_map(Parsed::new).collect();
        let intermediates: Vec<_> = intermediates.iter().take(MAX_DEPTH).filter_map(Parsed::new).collect();
        let can_sign = |issuer: &Parsed| issuer.is_authority() && issuer.is_valid_at(now) && issuer.serves_tls();
        let mut current = parsed;
        let mut rest = intermediates;
        loop {
            let signed_by = |issuer: &Parsed| can_sign(issuer) && issuer.signed(&current, &self.provider);
            if roots.iter().any(signed_by) {
                return Some(ServerCertVerified::assertion());
            }
            let next = rest.iter().position(signed_by)?;
            current = rest.swap_remove(next);
        }
    }
}

impl ServerCertVerifier for GoVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refused = match &self.webpki {
            Some(webpki) => {
                match webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
                    Ok(verified) => return Ok(verified),
                    Err(error) => error,
                }
            }
            None => Error::InvalidCertificate(CertificateError::UnknownIssuer),
        };
        let is_root = self.roots.iter().any(|root| root == end_entity);
        // webpki's error for an authority as a server is of the kind `Other`.
        let may_be_authority = matches!(&refused, Error::InvalidCertificate(CertificateError::Other(_)));
        if is_root || may_be_authority {
            let verified = self.verify_as_go(end_entity, intermediates, server_name, now);
            return verified.ok_or(refused);
        }
        Err(refused)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Verifier for insecure-skip-tls-verify: accepts every certificate, also of X.509 version 1.
#[derive(Debug)]
struct NoVerifier(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerifier {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
