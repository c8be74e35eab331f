//! A joining pod that waits in `admit` says so itself, on port [`WAITING_PORT`].
//!
//! The kubelet reports it too, but it looks at its containers once a second (its relist period), and at that point a
//! scale waits for nothing else. If the answer does not get through (a network policy, or a pod on its node's network
//! with the port taken), the run waits for the kubelet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use membership::know::names::WAITING_PORT;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tracing::info;

/// How long an answer may take: it comes from within the cluster, and nothing is computed for it.
const ANSWER: Duration = Duration::from_millis(100);
/// The most bytes that are read, more than any UID has.
const MOST: u64 = 256;

/// Answers everybody who connects with this pod's UID, until it is dropped. The UID is read from a downward-API file.
pub async fn tell(uid_file: &Path) {
    let Ok(uid) = std::fs::read_to_string(uid_file) else { return };
    let any = [IpAddr::from(Ipv6Addr::UNSPECIFIED), Ipv4Addr::UNSPECIFIED.into()];
    for address in any {
        if let Ok(listener) = TcpListener::bind(SocketAddr::new(address, WAITING_PORT)).await {
            return answer(&listener, &uid).await;
        }
    }
    info!("port {WAITING_PORT} is taken; that this pod waits is told by the kubelet alone");
}

async fn answer(listener: &TcpListener, uid: &str) {
    loop {
        match listener.accept().await {
            // A peer that does not take these few bytes in time is gone.
            Ok((mut asked, _)) => drop(tokio::time::timeout(ANSWER, asked.write_all(uid.as_bytes())).await),
            Err(_) => tokio::time::sleep(ANSWER).await,
        }
    }
}

/// Whether the pod with this UID says at this address that it waits.
pub async fn is_told(address: IpAddr, uid: &str) -> bool {
    asked(SocketAddr::new(address, WAITING_PORT), uid).await
}

async fn asked(address: SocketAddr, uid: &str) -> bool {
    let told = async {
        let mut told = String::new();
        TcpStream::connect(address).await?.take(MOST).read_to_string(&mut told).await?;
        std::io::Result::Ok(told)
    };
    matches!(tokio::time::timeout(ANSWER, told).await, Ok(Ok(told)) if !uid.is_empty() && told == uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_very_pod_is_believed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers = tokio::spawn(async move { answer(&listener, "uid-1").await });
        assert!(asked(address, "uid-1").await);
        assert!(!asked(address, "uid-2").await && !asked(address, "").await);
        answers.abort();
        assert!(answers.await.is_err());
        assert!(!asked(address, "uid-1").await, "nobody there");
    }

    #[tokio::test]
    async fn who_does_not_answer_does_not_wait() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert!(!asked(silent.local_addr().unwrap(), "uid-1").await);
    }
}
