//! The decoding processes of a worker or command. Each belongs to a thread, which waits for its answers: when the thread ends, the
//! kernel ends the process.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::guard::Guards;
use super::process::Process;
use super::wire::Attempt;
use crate::decode::job::{Decoded, Job};
use crate::decode::room::Room;
use crate::decode::{Error, memory_of_one};
use crate::metrics::Metrics;
use crate::outcome::KillCause;

/// How often an image is decoded whose process was ended by something else, or could not be started.
const TRIES: usize = 3;
/// The pause before a process is started again.
const START_PAUSE: Duration = Duration::from_millis(100);

/// Processes, started when they are first needed.
pub struct Pool(Arc<Shared>);

struct Shared {
    program: PathBuf,
    most_bytes: u64,
    room: Room,
    metrics: Arc<Metrics>,
    /// Threads without work. What is sent to one brings the sender along, so that a thread ends when the pool does.
    idle: Mutex<Vec<mpsc::Sender<Work>>>,
    unguarded: Once,
}

/// What a thread does next.
struct Work {
    task: Task,
    shared: Arc<Shared>,
    thread: mpsc::Sender<Work>,
    permit: OwnedSemaphorePermit,
}

enum Task {
    Decode {
        job: Job,
        file: Bytes,
        runtime: Handle,
        answer: oneshot::Sender<Result<Decoded, Error>>,
    },
    /// Starts the process, and says what guards it.
    Prepare {
        answer: oneshot::Sender<Result<Guards, Error>>,
    },
    Attempt {
        attempt: Attempt,
        answer: oneshot::Sender<Result<Result<(), String>, Error>>,
    },
}

impl Pool {
    /// `max_pixels` and `max_file_bytes` are those of the largest image.
    pub fn new(program: &Path, max_pixels: u64, max_file_bytes: u64, room: Room, metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Shared {
            program: program.to_owned(),
            most_bytes: memory_of_one(max_pixels, max_file_bytes.next_multiple_of(1 << 20)),
            room,
            metrics,
            idle: Mutex::default(),
            unguarded: Once::new(),
        }))
    }

    /// Decodes one image in a process that is idle. The permit is given back when the process is.
    pub async fn decode(&self, job: Job, file: Bytes, permit: OwnedSemaphorePermit) -> Result<Decoded, Error> {
        let runtime = Handle::current();
        self.run(permit, |answer| Task::Decode { job, file, runtime, answer }).await
    }

    /// What guards the processes.
    pub async fn prepare(&self, permit: OwnedSemaphorePermit) -> Result<Guards, Error> {
        self.run(permit, |answer| Task::Prepare { answer }).await
    }

    /// Tries something that must be refused.
    pub async fn attempt(&self, attempt: Attempt, permit: OwnedSemaphorePermit) -> Result<Result<(), String>, Error> {
        self.run(permit, |answer| Task::Attempt { attempt, answer }).await
    }

    async fn run<T>(
        &self,
        permit: OwnedSemaphorePermit,
        task: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Task,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        let thread = match self.0.idle().pop() {
            Some(thread) => thread,
            None => start_thread()?,
        };
        let work = Work { task: task(answer), shared: Arc::clone(&self.0), thread: thread.clone(), permit };
        thread.send(work).map_err(|_| Error::Stopped)?;
        answered.await.map_err(|_| Error::Stopped)?
    }
}

fn start_thread() -> Result<mpsc::Sender<Work>, Error> {
    let (thread, works) = mpsc::channel();
    let started = thread::Builder::new().name("decode".into()).spawn(move || serve(&works));
    started.map_err(|error| Error::Unavailable { reason: format!("no thread for decoding: {error}") })?;
    Ok(thread)
}

/// A thread: one process, and one work after the other.
fn serve(works: &mpsc::Receiver<Work>) {
    let mut process = None;
    for Work { task, shared, thread, permit } in works {
        let idle = || {
            shared.idle().push(thread);
            drop(permit);
        };
        // The caller of any may have given up.
        match task {
            Task::Decode { job, file, runtime, answer } => {
                let decoded = shared.decode(&mut process, &job, &file, &runtime);
                drop(file);
                idle();
                let _ = answer.send(decoded);
            }
            Task::Prepare { answer } => {
                let guards = shared.ready(&mut process).map(|process| process.guards);
                idle();
                let _ = answer.send(guards);
            }
            Task::Attempt { attempt, answer } => {
                let result = shared.ready(&mut process).map(|process| process.attempt(attempt));
                process = None;
                idle();
                let _ = answer.send(result);
            }
        }
    }
}

impl Shared {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::Sender<Work>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread's process, started where it is missing.
    fn ready<'a>(&self, process: &'a mut Option<Process>) -> Result<&'a mut Process, Error> {
        if let Some(process) = process {
            Ok(process)
        } else {
            let started = Process::start(&self.program, self.most_bytes);
            let started = started.map_err(|reason| Error::Unavailable { reason })?;
            self.say(started.guards);
            Ok(process.insert(started))
        }
    }

    fn say(&self, guards: Guards) {
        if !guards.seccomp {
            self.unguarded.call_once(|| {
                tracing::warn!("this kernel refuses seccomp, or has none for this processor; what guards the processes that decode images: {guards}");
            });
        }
    }

    fn decode(
        &self,
        process: &mut Option<Process>,
        job: &Job,
        file: &[u8],
        runtime: &Handle,
    ) -> Result<Decoded, Error> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            if process.as_mut().is_some_and(Process::has_ended) {
                *process = None;
            }
            let ready = match self.ready(process) {
                Ok(ready) => ready,
                Err(Error::Unavailable { reason }) if attempt < TRIES => {
                    tracing::warn!("{reason}; trying again");
                    thread::sleep(START_PAUSE);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let fresh = ready.fresh;
            let mut large = false;
            let decoded = ready.decode(job, file, |pixels| {
                large = true;
                runtime.block_on(self.room.acquire(pixels))
            });
            let end = match decoded {
                Ok(decoded) => {
                    // Its memory goes back to the system.
                    if large {
                        *process = None;
                    }
                    return decoded;
                }
                Err(end) => end,
            };
            *process = None;
            self.metrics.decoder_killed(end.cause);
            let again = if end.interrupted {
                attempt < TRIES
            } else {
                // What earlier images left behind may have taken the memory of this one.
                end.cause == KillCause::Memory && !fresh
            };
            if !again {
                return Err(Error::Killed { cause: end.cause, reason: end.reason });
            }
            tracing::warn!("the process that decoded an image ended: {}; another one tries again", end.reason);
        }
    }
}
