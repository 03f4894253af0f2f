//! Handshakes between both ends over a pipe in this process.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// Sends a message from the client and back. Returns the result of each end.
async fn exchange(client: ClientConfig, server: ServerConfig) -> (io::Result<String>, io::Result<()>) {
    let (near, far) = duplex(64 * 1024);
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let client_side = async {
        let mut stream = TlsConnector::from(Arc::new(client)).connect(name, near).await?;
        stream.write_all(b"word\n").await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let server_side = async {
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await?;
        let mut message = [0; 5];
        stream.read_exact(&mut message).await?;
        stream.write_all(&message).await?;
        stream.flush().await
    };
    tokio::join!(client_side, server_side)
}

struct TestEnds {
    bridge: Identity,
    agent: Identity,
    allowed_keys: Arc<AllowedKeys>,
}

impl TestEnds {
    fn new() -> Self {
        Self {
            bridge: Identity::new().unwrap(),
            agent: Identity::new().unwrap(),
            allowed_keys: Arc::default(),
        }
    }

    fn server(&self) -> ServerConfig {
        self.agent.server_config(self.allowed_keys.clone()).unwrap()
    }
}

#[tokio::test]
async fn ends_with_each_other_s_keys_connect() {
    let ends = TestEnds::new();
    ends.allowed_keys.add(ends.bridge.public_key().clone());
    let client = ends.bridge.client_config(ends.agent.public_key().clone()).unwrap();
    let (client_result, server_result) = exchange(client, ends.server()).await;
    assert_eq!(client_result.unwrap(), "word\n");
    server_result.unwrap();
}

#[tokio::test]
async fn an_unknown_key_is_refused_at_either_end() {
    let ends = TestEnds::new();
    let client = || ends.bridge.client_config(ends.agent.public_key().clone()).unwrap();
    let (client_result, server_result) = exchange(client(), ends.server()).await;
    client_result.unwrap_err();
    server_result.unwrap_err();
    // Another agent answers at this address.
    ends.allowed_keys.add(ends.bridge.public_key().clone());
    let impostor = Identity::new()
        .unwrap()
        .server_config(ends.allowed_keys.clone())
        .unwrap();
    let (client_result, server_result) = exchange(client(), impostor).await;
    assert!(
        client_result
            .unwrap_err()
            .to_string()
            .contains("invalid peer certificate")
    );
    server_result.unwrap_err();
}

#[tokio::test]
async fn a_public_key_without_its_private_key_is_refused() {
    let ends = TestEnds::new();
    ends.allowed_keys.add(ends.bridge.public_key().clone());
    // The thief presents the bridge's public key, but owns another private key.
    let thief = Identity::new().unwrap();
    let shown = CertificateDer::from(ends.bridge.public_key().as_der().to_vec());
    let thief = Identity {
        certified: Arc::new(CertifiedKey::new(vec![shown], thief.certified.key.clone())),
        public: thief.public,
    };
    let client = thief.client_config(ends.agent.public_key().clone()).unwrap();
    let (client_result, server_result) = exchange(client, ends.server()).await;
    client_result.unwrap_err();
    server_result.unwrap_err();
}

#[tokio::test]
async fn a_client_without_a_key_is_refused() {
    let ends = TestEnds::new();
    ends.allowed_keys.add(ends.bridge.public_key().clone());
    let mut client = ends.bridge.client_config(ends.agent.public_key().clone()).unwrap();
    client.client_auth_cert_resolver = Arc::new(NoClientKey);
    let (client_result, server_result) = exchange(client, ends.server()).await;
    client_result.unwrap_err();
    server_result.unwrap_err();
}

#[derive(Debug)]
struct NoClientKey;

impl rustls::client::ResolvesClientCert for NoClientKey {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }
    fn only_raw_public_keys(&self) -> bool {
        true
    }
    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn only_ed25519_public_keys_are_accepted() {
    let key = Identity::new().unwrap().public_key().clone();
    assert_eq!(PublicKey::try_from(key.as_der().to_vec()), Ok(key.clone()));
    let mut other = key.as_der().to_vec();
    other[8] ^= 1;
    assert_eq!(PublicKey::try_from(other), Err(InvalidKey));
    assert_eq!(PublicKey::try_from(key.as_der()[1..].to_vec()), Err(InvalidKey));
    assert_eq!(PublicKey::try_from(Vec::new()), Err(InvalidKey));
}

#[test]
fn a_full_set_drops_the_key_that_was_added_longest_ago() {
    let allowed_keys = AllowedKeys::default();
    let keys: Vec<_> = (0..65).map(|_| Identity::new().unwrap().public_key().clone()).collect();
    for key in &keys[..64] {
        allowed_keys.add(key.clone());
    }
    allowed_keys.add(keys[0].clone());
    allowed_keys.add(keys[64].clone());
    assert!(allowed_keys.contains(keys[0].as_der()));
    assert!(!allowed_keys.contains(keys[1].as_der()));
    assert!(allowed_keys.contains(keys[64].as_der()));
}
