//! A network of one's own, in which pods have their names and ports: the test starts itself again in
//! namespaces of its own, with a loopback interface and an `/etc/hosts`. When it ends, by whatever,
//! everything in it ends.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use membership::know::names::{MOST_MEMBERS, Ordinal, Target};

/// Says to the test that it is in there.
const INSIDE: &str = "ETCD_SCALER_LOOPBACK";

/// The address of an ordinal's pod.
pub fn address(ordinal: Ordinal) -> String {
    format!("127.0.1.{}", 1 + ordinal)
}

/// Whether the test runs in there already; if not it is run in there, and has to succeed.
pub fn is_inside(target: &Target, test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let hosts = tempfile::NamedTempFile::new().unwrap();
    let pods = (0..MOST_MEMBERS).map(|ordinal| format!("{} {}\n", address(ordinal), target.host(ordinal)));
    std::fs::write(hosts.path(), format!("127.0.0.1 localhost\n{}", pods.collect::<String>())).unwrap();
    // Neither unshare nor the first process of a namespace is ended by Ctrl-C.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare"]);
    // Who is not root becomes it in a namespace of users.
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-euc"]);
    command.arg("ip link set lo up; mount --bind \"$0\" /etc/hosts; exec \"$@\"").arg(hosts.path());
    command.arg(std::env::current_exe().unwrap()).args(["--ignored", "--exact", "--nocapture", test]);
    let ended = command.env(INSIDE, "true").status().expect("setpriv and unshare (util-linux) start");
    assert!(ended.success(), "{test} failed in a network of its own");
    false
}
