//! Both ends over a pipe in this process.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// A word from the client, and back; what either end made of it.
async fn talk(client: ClientConfig, server: ServerConfig) -> (io::Result<String>, io::Result<()>) {
    let (near, far) = duplex(64 * 1024);
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let asks = async {
        let mut stream = TlsConnector::from(Arc::new(client)).connect(name, near).await?;
        stream.write_all(b"word\n").await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answers = async {
        let mut stream = TlsAcceptor::from(Arc::new(server)).accept(far).await?;
        let mut word = [0; 5];
        stream.read_exact(&mut word).await?;
        stream.write_all(&word).await?;
        stream.flush().await
    };
    tokio::join!(asks, answers)
}

struct Ends {
    bridge: Identity,
    agent: Identity,
    enrolled: Arc<AllowedKeys>,
}

impl Ends {
    fn new() -> Self {
        Self {
            bridge: Identity::new().unwrap(),
            agent: Identity::new().unwrap(),
            enrolled: Arc::default(),
        }
    }

    fn server(&self) -> ServerConfig {
        self.agent.server_config(self.enrolled.clone()).unwrap()
    }
}

#[tokio::test]
async fn ends_that_know_each_other_talk() {
    let ends = Ends::new();
    ends.enrolled.add(ends.bridge.public_key().clone());
    let client = ends.bridge.client_config(ends.agent.public_key().clone()).unwrap();
    let (asked, answered) = talk(client, ends.server()).await;
    assert_eq!(asked.unwrap(), "word\n");
    answered.unwrap();
}

#[tokio::test]
async fn a_key_that_is_not_known_is_refused_at_either_end() {
    let ends = Ends::new();
    let client = || ends.bridge.client_config(ends.agent.public_key().clone()).unwrap();
    let (asked, answered) = talk(client(), ends.server()).await;
    asked.unwrap_err();
    answered.unwrap_err();
    // Another agent at this address.
    ends.enrolled.add(ends.bridge.public_key().clone());
    let impostor = Identity::new().unwrap().server_config(ends.enrolled.clone()).unwrap();
    let (asked, answered) = talk(client(), impostor).await;
    assert!(asked.unwrap_err().to_string().contains("invalid peer certificate"));
    answered.unwrap_err();
}

#[tokio::test]
async fn a_key_alone_does_not_help_without_its_proof() {
    let ends = Ends::new();
    ends.enrolled.add(ends.bridge.public_key().clone());
    // It shows the bridge's key, and has its own.
    let thief = Identity::new().unwrap();
    let shown = CertificateDer::from(ends.bridge.public_key().as_der().to_vec());
    let thief = Identity {
        certified: Arc::new(CertifiedKey::new(vec![shown], thief.certified.key.clone())),
        public: thief.public,
    };
    let client = thief.client_config(ends.agent.public_key().clone()).unwrap();
    let (asked, answered) = talk(client, ends.server()).await;
    asked.unwrap_err();
    answered.unwrap_err();
}

#[tokio::test]
async fn a_client_without_a_key_is_refused() {
    let ends = Ends::new();
    ends.enrolled.add(ends.bridge.public_key().clone());
    let mut client = ends.bridge.client_config(ends.agent.public_key().clone()).unwrap();
    client.client_auth_cert_resolver = Arc::new(NoClientKey);
    let (asked, answered) = talk(client, ends.server()).await;
    asked.unwrap_err();
    answered.unwrap_err();
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
fn only_keys_are_keys() {
    let key = Identity::new().unwrap().public_key().clone();
    assert_eq!(PublicKey::try_from(key.as_der().to_vec()), Ok(key.clone()));
    let mut other = key.as_der().to_vec();
    other[8] ^= 1;
    assert_eq!(PublicKey::try_from(other), Err(InvalidKey));
    assert_eq!(PublicKey::try_from(key.as_der()[1..].to_vec()), Err(InvalidKey));
    assert_eq!(PublicKey::try_from(Vec::new()), Err(InvalidKey));
}

#[test]
fn the_oldest_key_makes_room_and_a_known_one_stays() {
    let enrolled = AllowedKeys::default();
    let keys: Vec<_> = (0..65).map(|_| Identity::new().unwrap().public_key().clone()).collect();
    for key in &keys[..64] {
        enrolled.add(key.clone());
    }
    enrolled.add(keys[0].clone());
    enrolled.add(keys[64].clone());
    assert!(enrolled.has(keys[0].as_der()));
    assert!(!enrolled.has(keys[1].as_der()));
    assert!(enrolled.has(keys[64].as_der()));
}
