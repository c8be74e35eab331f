//! One etcd on loopback, a cluster of its own: for what needs a real one and no Kubernetes.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, ensure};

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

/// A URL on loopback that nobody else is given: an address of this process's own, from which nobody connects by
/// himself, and a port for each call. A free port that the kernel names may be named again before anybody listens on it:
/// twice among 36 once in twenty times.
///
/// # Errors
/// When there is no port left.
pub fn free_url() -> anyhow::Result<String> {
    const FIRST: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(FIRST);
    // At most 22 bits (proc(5), pid_max).
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 1 + high, middle, low);
    loop {
        let port = NEXT.fetch_add(1, Ordering::Relaxed);
        ensure!(port >= FIRST, "no port is left on {address}");
        // Who listens on all addresses has it, too.
        if TcpListener::bind((address, port)).is_ok() {
            return Ok(format!("http://{address}:{port}"));
        }
    }
}
