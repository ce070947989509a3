//! The real binary as a child process.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::poll;
use super::scrape::Scrape;

/// The program without this process's environment, which may have settings of the program.
fn imgdex(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imgdex"));
    command.args(arguments).env_clear().env("HOME", env!("CARGO_TARGET_TMPDIR")).env("RUST_BACKTRACE", "1");
    command
}

/// How a command ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a command to its end.
pub async fn run(arguments: &[impl AsRef<OsStr>], stdin: &str) -> Finished {
    let command = imgdex(arguments);
    let stdin = stdin.to_owned();
    poll::soon("the command", tokio::task::spawn_blocking(move || finish(command, &stdin))).await.unwrap()
}

/// Runs a command to its end, as a child of the thread that calls this.
pub fn run_here(arguments: &[impl AsRef<OsStr>], stdin: &str) -> Finished {
    finish(imgdex(arguments), stdin)
}

fn finish(mut command: Command, stdin: &str) -> Finished {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Finished { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// A command that waits for further lines of its standard input; killed when dropped.
pub struct Open(Child);

impl Open {
    /// Starts a command.
    pub fn start(arguments: &[impl AsRef<OsStr>]) -> Self {
        Self(imgdex(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Writes a line, and leaves its standard input open.
    pub fn write_line(&mut self, line: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running `imgdex worker`; killed when dropped, its log shown where the test has failed.
pub struct Worker {
    child: Child,
    log: Arc<Mutex<String>>,
    address: SocketAddr,
    client: reqwest::Client,
}

impl Worker {
    /// Starts a worker, and waits until it serves its admin routes.
    pub async fn start(arguments: &[impl AsRef<OsStr>]) -> Self {
        let mut child = imgdex(arguments).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::<Mutex<String>>::default();
        let (stderr, lines) = (child.stderr.take().unwrap(), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = lines.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        // From here on, the process is killed on drop.
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut worker = Self { child, log, address: unknown, client: reqwest::Client::new() };
        worker.address = poll::until("the worker's address", async || {
            let bound = worker.log().lines().find_map(|line| line.split_once("listening on ")?.1.trim().parse().ok());
            bound.ok_or_else(|| "it is not in the log".to_owned())
        })
        .await;
        worker
    }

    /// Waits until the log contains these words.
    pub async fn until_logged(&self, words: &str) {
        poll::until("the worker's log", async || {
            if self.log().contains(words) { Ok(()) } else { Err(format!("{words:?} is not in it")) }
        })
        .await;
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Requests an admin route: status and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.client.get(format!("http://{}{path}", self.address)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// `/ready`.
    pub async fn ready(&self) -> (u16, Value) {
        let (status, text) = self.get("/ready").await;
        (status, serde_json::from_str(&text).unwrap())
    }

    /// Waits until `/ready` answers 200.
    pub async fn until_ready(&self) {
        poll::until("the worker is ready", async || match self.ready().await {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    /// Waits until `/ready` answers 503 and the reason of this condition contains all these words.
    pub async fn until_not_ready(&self, condition: &str, words: &[&str]) {
        poll::until(&format!("the reason of the {condition} in /ready"), async || {
            let (status, report) = self.ready().await;
            let reason = report["conditions"][condition]["reason"].as_str().unwrap_or_default();
            let expected = status == 503 && report["ready"] == false && words.iter().all(|word| reason.contains(word));
            if expected { Ok(()) } else { Err(format!("{status} {report}")) }
        })
        .await;
    }

    /// Waits until the worker has a session with the broker.
    pub async fn until_connected(&self) {
        let connected = async || self.ready().await.1["conditions"]["broker"]["ready"] == true;
        poll::until_equal("the session with the broker", true, connected).await;
    }

    /// `/metrics`. Checks that the counters reconcile.
    pub async fn scrape(&self) -> Scrape {
        let (status, text) = self.get("/metrics").await;
        assert_eq!(status, 200, "{text}");
        let scrape = Scrape::parse(&text);
        scrape.reconcile();
        scrape
    }

    /// Waits until a sum over the metrics has this value.
    pub async fn until(&self, what: &str, expected: u64, value: impl Fn(&Scrape) -> u64) {
        poll::until_equal(what, expected, async || value(&self.scrape().await)).await;
    }

    /// Sends SIGTERM and waits for the exit code; `None` where a signal ended the process.
    pub async fn terminate(&mut self) -> Option<i32> {
        self.send_sigterm();
        self.ended().await
    }

    /// Sends SIGTERM.
    pub fn send_sigterm(&self) {
        kill(Pid::from_raw(self.pid().try_into().unwrap()), Signal::SIGTERM).unwrap();
    }

    /// Waits for the exit code; `None` where a signal ended the process.
    pub async fn ended(&mut self) -> Option<i32> {
        let ended = poll::until("the worker ends", async || {
            self.child.try_wait().unwrap().ok_or_else(|| "still runs".to_owned())
        });
        ended.await.code()
    }

    /// Whether the process still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the worker {} ---\n{}", self.child.id(), self.log());
        }
    }
}
