//! Servers of one test, which it may restart, kill, or start with other settings.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A running server with its state in a folder of its own; stopped and removed when dropped.
pub struct Service {
    name: &'static str,
    folder: TempDir,
}

impl Service {
    /// A RabbitMQ.
    pub async fn rabbitmq() -> Self {
        Self::rabbitmq_with("").await
    }

    /// A RabbitMQ with more settings, as Erlang terms.
    pub async fn rabbitmq_with(settings: &str) -> Self {
        Self::start_new("rabbitmq", &format!("[{{rabbit, [{settings}]}}].")).await
    }

    /// An Elasticsearch, with a small heap.
    pub async fn elasticsearch() -> Self {
        Self::start_new("elasticsearch", "").await
    }

    async fn start_new(name: &'static str, advanced: &str) -> Self {
        let folder = tempfile::Builder::new().prefix(name).tempdir().unwrap();
        // The server runs as another user where the tests run as root.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(folder.path().join("advanced.config"), advanced).unwrap();
        let service = Self { name, folder };
        service.start().await;
        service
    }

    /// Starts the server again, on the same ports and with the same state.
    pub async fn start(&self) {
        self.script("start").await;
    }

    /// Stops the server in order.
    pub async fn stop(&self) {
        self.script("stop").await;
    }

    /// Sends SIGKILL to the server.
    pub fn kill(&self) {
        let pid = self.read("pid").parse().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }

    /// The address.
    pub fn url(&self) -> String {
        self.read("url")
    }

    /// Runs this server's script.
    async fn script(&self, verb: &str) {
        let mut command = Command::new(script(self.name));
        command.args([OsStr::new(verb), self.folder.path().as_os_str()]).env("ES_HEAP", "512m");
        // The script's messages belong to the test's output.
        let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{verb} {}: {}", self.name, String::from_utf8_lossy(&output.stderr));
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(file)).unwrap().trim().to_owned()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // A failed stop must not hide the test's own failure; the run's clean-up stops what is left.
        let _ = Command::new(script(self.name)).arg("stop").arg(self.folder.path()).output();
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/services/{name}.sh"))
}
