//! Decoding as the program does it, with limits that tests choose, and the processes that do it.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use imgdex::testing::Metrics;
use imgdex::testing::decode::{Decoder, Isolation, Sampling, Settings};
use tempfile::TempDir;

/// Settings for fixtures, with so many decoders.
pub fn settings(permits: usize) -> Settings {
    Settings {
        max_pixels: 1_000_000,
        max_file_bytes: 32 << 20,
        allow_tiff: true,
        accept_truncated: 0,
        permits,
        isolation: Isolation::Processes { program: env!("CARGO_BIN_EXE_imgdex").into() },
    }
}

/// A decoder for fixtures.
pub fn decoder(sampling: Sampling) -> Decoder {
    Decoder::new(settings(2), sampling, metrics())
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new("vgg16", "portable").unwrap())
}

/// A decoder for fixtures with processes that can be told from those of other tests.
pub struct Observed {
    pub decoder: Decoder,
    pub metrics: Arc<Metrics>,
    /// A link to the program, whose path is the name of its processes.
    folder: TempDir,
}

impl Observed {
    pub fn new(permits: usize, sampling: Sampling) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("imgdex");
        symlink(env!("CARGO_BIN_EXE_imgdex"), &program).unwrap();
        let settings = Settings { isolation: Isolation::Processes { program }, ..settings(permits) };
        let metrics = metrics();
        Self { decoder: Decoder::new(settings, sampling, Arc::clone(&metrics)), metrics, folder }
    }

    /// Its processes.
    pub fn processes(&self) -> Vec<u32> {
        let name = self.program();
        decoders_of(std::process::id()).into_iter().filter(|pid| command_line(*pid).starts_with(&name)).collect()
    }

    /// Samples the memory of its processes.
    pub fn peak_memory(&self) -> PeakMemory {
        PeakMemory::sample(std::process::id(), Some(self.program()))
    }

    /// How many of its processes were killed by this cause.
    pub fn killed(&self, cause: &str) -> u64 {
        let text = String::from_utf8(self.metrics.render().unwrap()).unwrap();
        let name = format!("imgdex_decoder_killed_total{{cause=\"{cause}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(name.as_str())).unwrap().parse().unwrap()
    }

    fn program(&self) -> Vec<u8> {
        self.folder.path().join("imgdex").into_os_string().into_encoded_bytes()
    }
}

/// The arguments of a process, each with a zero byte behind it; nothing if it is gone.
fn command_line(pid: u32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// The processes that decode for this one or one of its descendants.
pub fn decoders_of(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for child in children(pid) {
        if command_line(child).split(|byte| *byte == 0).nth(1) == Some(b"decoder-process") {
            found.push(child);
        }
        found.extend(decoders_of(child));
    }
    found
}

/// Whether a process exists and has not ended.
pub fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie has ended.
    stat.rsplit_once(')').is_some_and(|(_, fields)| !fields.starts_with(" Z"))
}

/// The children of a process, whichever thread started them.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()).collect()
}

/// Resident memory of a process and of all that decode for it, in bytes.
pub fn resident_with_decoders(pid: u32) -> u64 {
    resident(pid) + decoders_of(pid).into_iter().map(resident).sum::<u64>()
}

/// The most resident memory of a process so far, in bytes.
fn high_water(pid: u32) -> u64 {
    status_bytes(pid, "VmHWM:")
}

fn resident(pid: u32) -> u64 {
    status_bytes(pid, "VmRSS:")
}

/// A line of a process's status in bytes; 0 of a process that is gone.
fn status_bytes(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Samples the memory of a process with all its decoders until it is asked.
pub struct PeakMemory {
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
    sampling: Option<JoinHandle<()>>,
}

impl PeakMemory {
    /// Of a process and of all that decode for it.
    pub fn of(pid: u32) -> Self {
        Self::sample(pid, None)
    }

    /// With a program: only of the decoders with this name.
    fn sample(pid: u32, program: Option<Vec<u8>>) -> Self {
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, highest) = (Arc::clone(&stop), Arc::clone(&peak));
        let sampling = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let sum: u64 = match &program {
                    None => resident_with_decoders(pid),
                    Some(name) => {
                        let own = decoders_of(pid).into_iter().filter(|pid| command_line(*pid).starts_with(name));
                        own.map(high_water).sum()
                    }
                };
                highest.fetch_max(sum, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(2));
            }
        });
        Self { stop, peak, sampling: Some(sampling) }
    }

    /// The highest sum so far, in bytes.
    pub fn bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }
}

impl Drop for PeakMemory {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.sampling.take().unwrap().join();
    }
}
