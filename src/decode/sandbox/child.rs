//! The process that decodes: it restricts itself, says so, and then serves one job after the other until its connection closes.

use std::fs::{self, File};
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::panic;
use std::process::{Command, ExitCode};

use nix::sys::signal::{SigSet, Signal};

use super::guard;
use super::wire::{Attempt, Order, Report, read_frame, write_frame};
use crate::decode::SMALL;
use crate::decode::job::{Decoded, Job, Product, contained};
use crate::machine::proc_field_bytes;

/// Serves the process that started this one. `most_bytes` is the most memory that it may ever use for an image.
pub fn main(most_bytes: Option<u64>) -> ExitCode {
    let Some(most_bytes) = most_bytes else { return failed(&"the most memory of an image is not given") };
    match serve(most_bytes) {
        // The other end is gone: there is nothing left to decode.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof || error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
        Ok(()) => ExitCode::SUCCESS,
    }
}

/// The process that started this one reads it.
fn failed(error: &dyn std::fmt::Display) -> ExitCode {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "{error}");
    ExitCode::FAILURE
}

fn serve(most_bytes: u64) -> io::Result<()> {
    ignore_signals()?;
    guard::die_with_parent()?;
    // A panic is reported as an answer, not printed.
    panic::set_hook(Box::new(|_| {}));
    close_inherited();
    let mut connection = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    // The program, its libraries, the stack.
    let base_bytes = proc_field_bytes("/proc/self/status", "VmSize");
    let base_bytes = base_bytes.ok_or_else(|| io::Error::other("/proc/self/status does not say the address space"))?;
    let allowed = guard::allowed(base_bytes, most_bytes);
    let guards = guard::restrict(connection.as_raw_fd(), base_bytes, most_bytes)?;
    write_frame(&mut connection, &Report::Ready { guards, base_bytes, most_bytes: allowed }, &[])?;
    loop {
        match read_frame(&mut connection, usize::MAX)? {
            (Order::Decode(job), file) => decode(&mut connection, &job, &file)?,
            (Order::Attempt(attempt), _) => {
                write_frame(&mut connection, &Report::Attempted(attempt.make().map_err(|e| e.to_string())), &[])?;
            }
            (Order::Proceed, _) => return Err(io::Error::other("told to proceed with nothing")),
        }
    }
}

/// Closes what the program was started with besides its standard streams. What it opened itself is closed when it starts another.
#[expect(unsafe_code, reason = "descriptors that nothing in this process owns")]
fn close_inherited() {
    // SAFETY: the process has just been started and has opened nothing that it still uses, so no value in it owns one of these
    // descriptors. An old kernel without the call leaves them open; the filter of system calls refuses their use.
    unsafe { libc::syscall(libc::SYS_close_range, libc::STDERR_FILENO + 1, libc::c_uint::MAX, 0) };
}

/// A signal to the whole group or service is meant for the process that drains and then closes the connection.
fn ignore_signals() -> io::Result<()> {
    use Signal::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2};
    let signals: SigSet =
        [SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2].into_iter().collect();
    Ok(signals.thread_block()?)
}

fn decode(connection: &mut File, job: &Job, file: &[u8]) -> io::Result<()> {
    let measured = match contained(|| job.measure(file)) {
        Ok(measured) => measured,
        Err(error) => return write_frame(connection, &Report::Failed(error), &[]),
    };
    if measured > SMALL {
        write_frame(connection, &Report::Needs { pixels: measured }, &[])?;
        match read_frame(connection, 0)? {
            (Order::Proceed, _) => {}
            _ => return Err(io::Error::other("told something else than to proceed")),
        }
    }
    match contained(|| job.run(file, measured)) {
        Ok(Decoded { size, format, missing, products }) => {
            let bytes: Vec<_> = products.iter().map(Product::as_bytes).collect();
            write_frame(connection, &Report::Decoded { size, format, missing }, &bytes.concat())
        }
        Err(error) => write_frame(connection, &Report::Failed(error), &[]),
    }
}

impl Attempt {
    fn make(self) -> io::Result<()> {
        match self {
            Self::Open => File::open("/proc/self/status").map(drop),
            Self::Write => {
                let path = std::env::temp_dir().join(format!("imgdex-attempt-{}", std::process::id()));
                File::create(&path)?;
                fs::remove_file(path)
            }
            Self::Socket => UdpSocket::bind("127.0.0.1:0").map(drop),
            Self::Execute => Command::new("/proc/self/exe").arg("--version").spawn()?.wait().map(drop),
            Self::Kill => {
                let parent = rustix::process::getppid().ok_or_else(|| io::Error::other("no parent"))?;
                Ok(rustix::process::test_kill_process(parent)?)
            }
            Self::Memory => {
                let mut blocks = Vec::new();
                loop {
                    blocks.push(vec![1_u8; 1 << 20]);
                }
            }
            Self::Time => loop {
                std::hint::spin_loop();
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_succeed_where_nothing_refuses_them() {
        for attempt in Attempt::ESCAPES {
            assert!(attempt.make().is_ok(), "{attempt:?}: {:?}", attempt.make());
        }
    }
}
