//! One etcd on loopback, a cluster of its own: for what needs a real one and no Kubernetes.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context;

/// It is killed when dropped.
#[derive(Debug)]
pub struct OneEtcd {
    /// Its process.
    pub process: Child,
    /// Its client URL.
    pub url: String,
}

impl OneEtcd {
    /// Starts the program that `ETCD` names on this directory, which may be empty; its peer URL is in
    /// the data where there is some. Its client URL is `url`. It does not serve yet.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn start(data_dir: &Path, url: &str, peer: &str) -> anyhow::Result<Self> {
        let process = Command::new(std::env::var("ETCD").context("ETCD names no etcd binary")?)
            .args(["--name", "one", "--data-dir"])
            .arg(data_dir)
            .args(["--listen-client-urls", url, "--advertise-client-urls", url])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start etcd")?;
        Ok(Self { process, url: url.to_owned() })
    }
}

impl Drop for OneEtcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A URL on loopback that nobody listens on.
///
/// # Errors
/// When there is no port left.
pub fn free_url() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").context("failed to find a free port")?;
    Ok(format!("http://{}", listener.local_addr()?))
}
