//! One decoding process, as the one that asks sees it: started, asked, and ended with a cause.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::ARGUMENT;
use super::guard::{self, Guards};
use super::watch::{Overrun, TICK, Watch, Watched};
use super::wire::{self, Attempt, Order, Report, read_frame, write_frame};
use crate::decode::job::{Decoded, Job};
use crate::decode::{self, Error, SMALL};
use crate::outcome::KillCause;

/// To load the program and restrict itself.
const START: Duration = Duration::from_secs(10);
/// To be refused what it tries.
const ATTEMPT: Duration = Duration::from_secs(2);
/// What is said of a process that has been taken over.
const NO_SENSE: &str = "its answer made no sense";
/// The most that is read of what a process said before it ended.
const STDERR_BYTES: u64 = 4096;

/// A process that is ready for the next job. Killed when dropped.
pub struct Process {
    child: Child,
    connection: UnixStream,
    pub guards: Guards,
    base_bytes: u64,
    most_bytes: u64,
    granted: u64,
    /// Whether it has had no job yet.
    pub fresh: bool,
}

/// How a process ended that owed an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct End {
    pub cause: KillCause,
    pub reason: String,
    /// Whether something else ended it, as far as can be told, and not what it did.
    pub interrupted: bool,
}

impl Process {
    /// Starts a process that may use `most_bytes` for an image.
    pub fn start(program: &Path, most_bytes: u64) -> Result<Self, String> {
        let start = || {
            let (ours, theirs) = UnixStream::pair()?;
            ours.set_read_timeout(Some(TICK))?;
            ours.set_write_timeout(Some(TICK))?;
            // No environment: it may hold passwords.
            let child = Command::new(program)
                .args([ARGUMENT, &most_bytes.to_string()])
                .env_clear()
                .current_dir("/")
                .stdin(OwnedFd::from(theirs))
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            Ok::<_, io::Error>((child, ours))
        };
        let (child, connection) =
            start().map_err(|error| format!("{} could not be started to decode: {error}", program.display()))?;
        let guards = Guards { seccomp: false, landlock: false };
        let mut process =
            Self { child, connection, guards, base_bytes: 0, most_bytes, granted: most_bytes, fresh: true };
        let mut watch = Watch::start(process.id(), START);
        match process.watched(&mut watch, |connection| read_frame(connection, 0)) {
            Ok((Report::Ready { most_bytes: allowed, .. }, _)) if allowed < most_bytes => Err(format!(
                "this process may take too little address space (`ulimit -v`) to decode the largest image: {} MiB, of {} MiB; allow \
                 more, or lower --max-image-pixels",
                allowed >> 20,
                most_bytes.div_ceil(1 << 20)
            )),
            Ok((Report::Ready { guards, base_bytes, .. }, _)) => {
                process.guards = guards;
                process.base_bytes = base_bytes;
                Ok(process)
            }
            Ok(_) => Err("the decoding process said something else than that it is ready".to_owned()),
            Err(error) => {
                let end = process.end(&error, watch.overrun);
                Err(format!("the decoding process ended at its start: {}", end.reason))
            }
        }
    }

    /// Decodes one image. `room` is called when many pixels must be held, and blocks until they may be; what it returns is held as
    /// long as the pixels are. The outer error is the end of the process.
    pub fn decode<R>(
        &mut self,
        job: &Job,
        file: &[u8],
        room: impl FnOnce(u64) -> Result<R, Error>,
    ) -> Result<Result<Decoded, Error>, End> {
        self.fresh = false;
        let small = SMALL.min(job.limits.max_pixels);
        let length = file.len() as u64;
        let mut watch = Watch::start(self.id(), decode::cpu_time(small, length));
        let mut asked = self.begin(small, length).and_then(|()| {
            self.watched(&mut watch, |connection| {
                write_frame(connection, &Order::Decode(job.clone()), file)?;
                read_frame(connection, job.product_bytes())
            })
        });
        let mut _held = None;
        if let Ok((Report::Needs { pixels }, _)) = asked {
            // Whatever it says, it gets no more than the largest image.
            let pixels = pixels.min(job.limits.max_pixels);
            match room(pixels) {
                Ok(room) => _held = Some(room),
                Err(error) => return Ok(Err(error)),
            }
            watch.restart(decode::cpu_time(pixels, length));
            asked = self.begin(pixels, length).and_then(|()| {
                self.watched(&mut watch, |connection| {
                    write_frame(connection, &Order::Proceed, &[])?;
                    read_frame(connection, job.product_bytes())
                })
            });
        }
        match asked {
            Ok((Report::Decoded { size, format, missing }, bytes)) => match wire::products(job, &bytes) {
                Some(products) => Ok(Ok(Decoded { size, format, missing, products })),
                None => Err(self.kill_for(NO_SENSE)),
            },
            Ok((Report::Failed(error), _)) => Ok(Err(error)),
            Ok(_) => Err(self.kill_for(NO_SENSE)),
            Err(error) => Err(self.end(&error, watch.overrun)),
        }
    }

    /// Lets the process try something that must be refused; the error says who refused it.
    pub fn attempt(&mut self, attempt: Attempt) -> Result<(), String> {
        let mut watch = Watch::start(self.id(), ATTEMPT);
        let asked = self.watched(&mut watch, |connection| {
            write_frame(connection, &Order::Attempt(attempt), &[])?;
            read_frame(connection, 0)
        });
        match asked {
            Ok((Report::Attempted(result), _)) => result,
            Ok(_) => Err("it said something else".to_owned()),
            Err(error) => Err(self.end(&error, watch.overrun).reason),
        }
    }

    fn id(&self) -> u32 {
        self.child.id()
    }

    /// Allows the memory for an image.
    fn begin(&mut self, pixels: u64, file_bytes: u64) -> io::Result<()> {
        // Rounded, so that it seldom changes.
        let bytes = decode::memory_of_one(pixels, file_bytes.next_multiple_of(1 << 20));
        if bytes != self.granted {
            guard::grant(self.id(), self.base_bytes, bytes, self.most_bytes)?;
            self.granted = bytes;
        }
        Ok(())
    }

    fn watched<T>(&self, watch: &mut Watch, exchange: impl FnOnce(&mut Watched<'_>) -> io::Result<T>) -> io::Result<T> {
        exchange(&mut Watched { stream: &self.connection, watch })
    }

    /// Whether the process has ended since its last job.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends the process, which changes nothing about one that has ended by itself.
    fn kill(&mut self) -> io::Result<ExitStatus> {
        let _ = self.child.kill();
        self.child.wait()
    }

    /// Ends a process whose answer makes no sense: something has taken it over.
    fn kill_for(&mut self, reason: &str) -> End {
        let _ = self.kill();
        killed(KillCause::Signal, reason.to_owned())
    }

    /// The end of a process that did not answer.
    fn end(&mut self, error: &io::Error, overrun: Option<Overrun>) -> End {
        let broken = error.kind() == io::ErrorKind::UnexpectedEof || error.kind() == io::ErrorKind::BrokenPipe;
        if overrun.is_none() && !broken && error.kind() != io::ErrorKind::ConnectionReset {
            // It still runs, and is to blame for what it sent; or its limits could not be set.
            return if error.kind() == io::ErrorKind::InvalidData {
                self.kill_for(&format!("{NO_SENSE}: {error}"))
            } else {
                let _ = self.kill();
                interrupted(KillCause::Signal, format!("it could not be used: {error}"))
            };
        }
        let status = self.kill();
        let mut said = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = stderr.take(STDERR_BYTES).read_to_end(&mut said);
        }
        let said = String::from_utf8_lossy(&said);
        match status {
            Ok(status) => end_of(overrun, status.signal(), said.trim(), error),
            Err(error) => interrupted(KillCause::Signal, error.to_string()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

fn killed(cause: KillCause, reason: String) -> End {
    End { cause, reason, interrupted: false }
}

fn interrupted(cause: KillCause, reason: String) -> End {
    End { cause, reason, interrupted: true }
}

/// What killed a process, by the signal that ended it and what it said on its standard error.
fn end_of(overrun: Option<Overrun>, signal: Option<i32>, stderr: &str, error: &io::Error) -> End {
    match (overrun, signal) {
        (Some(Overrun::CpuTime(limit)), _) => {
            killed(KillCause::Time, format!("it took more than {:.1} s of processor time", limit.as_secs_f64()))
        }
        (Some(Overrun::Starved(limit)), _) => {
            interrupted(KillCause::Time, format!("it was not done after {} s", limit.as_secs()))
        }
        (Some(Overrun::Stopped), _) => interrupted(KillCause::Time, "it was stopped by a signal".to_owned()),
        (None, Some(libc::SIGSYS)) => killed(KillCause::SystemCall, "it made a forbidden system call".to_owned()),
        // What Rust's standard library says before it aborts.
        (None, Some(libc::SIGABRT)) if stderr.starts_with("memory allocation of ") => {
            killed(KillCause::Memory, "it needed more memory than an image of this size may take".to_owned())
        }
        (None, Some(signal @ (libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP))) => {
            interrupted(KillCause::Signal, format!("signal {signal} from outside"))
        }
        (None, Some(signal)) => killed(KillCause::Signal, format!("signal {signal}{}", quoted(stderr))),
        (None, None) => {
            interrupted(KillCause::Signal, format!("it ended without an answer ({error}){}", quoted(stderr)))
        }
    }
}

/// The first line, without what a terminal would obey.
fn quoted(stderr: &str) -> String {
    match stderr.lines().next() {
        None | Some("") => String::new(),
        Some(line) => format!(": {}", line.replace(char::is_control, "\u{fffd}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_process_has_a_cause() {
        let error = io::Error::from(io::ErrorKind::UnexpectedEof);
        let allocation = "memory allocation of 4096 bytes failed";
        let second = Duration::from_secs(1);
        for (overrun, signal, stderr, image, cause) in [
            (None, Some(libc::SIGSYS), "", true, KillCause::SystemCall),
            (None, Some(libc::SIGABRT), allocation, true, KillCause::Memory),
            (None, Some(libc::SIGABRT), "double free", true, KillCause::Signal),
            (None, Some(libc::SIGSEGV), "", true, KillCause::Signal),
            (None, Some(libc::SIGKILL), "", false, KillCause::Signal),
            (None, None, "", false, KillCause::Signal),
            (Some(Overrun::CpuTime(second)), Some(libc::SIGKILL), "", true, KillCause::Time),
            (Some(Overrun::Stopped), Some(libc::SIGKILL), "", false, KillCause::Time),
            (Some(Overrun::Starved(second)), Some(libc::SIGKILL), "", false, KillCause::Time),
        ] {
            let end = end_of(overrun, signal, stderr, &error);
            assert_eq!((!end.interrupted, end.cause), (image, cause), "{end:?}");
        }
    }
}
