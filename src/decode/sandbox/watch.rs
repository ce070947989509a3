//! The time of a decoding process, as the one that asked sees it.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How often a process that does not answer is looked at.
pub const TICK: Duration = Duration::from_millis(100);
/// How long a process may be stopped by a signal.
const STOPPED: Duration = Duration::from_secs(1);
/// A process that got less than a quarter of one core was not slow: the machine had no time for it.
const STARVED: u32 = 4;
/// The time to start, to switch, to be scheduled at all.
const GRACE: Duration = Duration::from_secs(10);

/// Why a process is not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overrun {
    /// It has used up its time on a processor.
    CpuTime(Duration),
    /// It has hardly been given any.
    Starved(Duration),
    /// A signal stopped it.
    Stopped,
}

/// Limits the time of one job.
pub struct Watch {
    process: u32,
    started: Instant,
    last_check: Instant,
    /// The time on a processor that the process had used before; none until it could be read.
    cpu_before: Option<Duration>,
    cpu_limit: Duration,
    stopped_since: Option<Instant>,
    pub overrun: Option<Overrun>,
}

impl Watch {
    pub fn start(process: u32, cpu_limit: Duration) -> Self {
        let cpu_before = Sample::of(process).map(|sample| sample.cpu);
        let now = Instant::now();
        Self { process, started: now, last_check: now, cpu_before, cpu_limit, stopped_since: None, overrun: None }
    }

    /// Starts again, with another limit.
    pub fn restart(&mut self, cpu_limit: Duration) {
        *self = Self::start(self.process, cpu_limit);
    }

    /// An error once a limit is reached; looks at the process at most once in a [`TICK`].
    fn check(&mut self) -> io::Result<()> {
        let now = Instant::now();
        if now.duration_since(self.last_check) < TICK {
            return Ok(());
        }
        self.last_check = now;
        self.overrun = self.judge(Sample::of(self.process), now);
        match self.overrun {
            Some(_) => Err(io::ErrorKind::TimedOut.into()),
            None => Ok(()),
        }
    }

    /// Without a sample (the process is gone, or this one has no descriptor left to look) the time since the start counts alone.
    fn judge(&mut self, sample: Option<Sample>, now: Instant) -> Option<Overrun> {
        if let Some(sample) = sample {
            let used = sample.cpu.saturating_sub(*self.cpu_before.get_or_insert(sample.cpu));
            if used >= self.cpu_limit {
                return Some(Overrun::CpuTime(self.cpu_limit));
            }
            if sample.stopped {
                let since = *self.stopped_since.get_or_insert(now);
                if now.duration_since(since) >= STOPPED {
                    return Some(Overrun::Stopped);
                }
            } else {
                self.stopped_since = None;
            }
        }
        let longest = self.cpu_limit * STARVED + GRACE;
        (now.duration_since(self.started) >= longest).then_some(Overrun::Starved(longest))
    }
}

/// A process at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// The time on a processor since its start.
    cpu: Duration,
    stopped: bool,
}

impl Sample {
    fn of(process: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
    }

    /// From a line of `/proc/PID/stat`; the name in it may contain anything.
    fn parse(stat: &str) -> Option<Self> {
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let stopped = fields.next()? == "T";
        // After the state: ten fields, then ticks in user and in kernel mode.
        let ticks = fields.nth(10)?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
        let cpu = Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second());
        Some(Self { cpu, stopped })
    }
}

/// A connection whose reads and writes end with [`io::ErrorKind::TimedOut`] once the watch says so. The stream's own time-outs are
/// a [`TICK`].
pub struct Watched<'a> {
    pub stream: &'a UnixStream,
    pub watch: &'a mut Watch,
}

impl Watched<'_> {
    fn retry(&mut self, mut io: impl FnMut(&UnixStream) -> io::Result<usize>) -> io::Result<usize> {
        loop {
            // Before each byte, too: a process that sends one now and then must come to an end.
            self.watch.check()?;
            match io(self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.retry(|mut stream| stream.read(buffer))
    }
}

impl Write for Watched<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.retry(|mut stream| stream.write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_is_sampled_whatever_its_name() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0";
        let tick = 1000 / rustix::param::clock_ticks_per_second();
        for name in ["imgdex", "a) T 0 (b", ""] {
            let sample = Sample::parse(&format!("77 ({name}) {fields}")).unwrap();
            assert_eq!(sample.cpu, Duration::from_millis(300 * tick), "{name}");
            assert!(!sample.stopped);
        }
        assert!(Sample::parse(&format!("77 (x) {}", fields.replace('S', "T"))).unwrap().stopped);
        assert!(Sample::parse("").is_none());
        assert!(Sample::of(std::process::id()).is_some());
    }

    #[test]
    fn time_on_a_processor_counts_and_time_without_one_only_much_later() {
        let limit = Duration::from_secs(2);
        let mut watch = Watch::start(std::process::id(), limit);
        let at = |seconds| watch.started + Duration::from_secs(seconds);
        let (now, late, too_late) = (at(1), at(17), at(18));
        let used = |seconds, stopped| Some(Sample { cpu: Duration::from_secs(seconds), stopped });
        watch.cpu_before = None;
        assert_eq!(watch.judge(used(5, false), now), None, "the first sample is where counting begins");
        assert_eq!(watch.judge(used(6, false), now), None);
        assert_eq!(watch.judge(used(7, false), now), Some(Overrun::CpuTime(limit)));
        assert_eq!(watch.judge(used(5, false), late), None);
        assert_eq!(watch.judge(used(5, false), too_late), Some(Overrun::Starved(Duration::from_secs(18))));
        assert_eq!(watch.judge(None, late), None);
        assert_eq!(watch.judge(None, too_late), Some(Overrun::Starved(Duration::from_secs(18))));
        assert_eq!(watch.judge(used(5, true), now), None);
        assert_eq!(watch.judge(used(5, false), now + STOPPED), None, "it goes on");
        assert_eq!(watch.judge(used(5, true), now + STOPPED), None);
        assert_eq!(watch.judge(used(5, true), now + 2 * STOPPED), Some(Overrun::Stopped));
    }
    #[test]
    fn a_process_that_sends_a_byte_now_and_then_comes_to_an_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(TICK)).unwrap();
        let sending = std::thread::spawn(move || {
            while theirs.write_all(&[0]).is_ok() {
                std::thread::sleep(TICK / 5);
            }
        });
        // This process has used more than nothing since it began.
        let mut watch = Watch::start(std::process::id(), Duration::ZERO);
        let read = Watched { stream: &ours, watch: &mut watch }.read_exact(&mut [0; 1000]);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(ours);
        sending.join().unwrap();
    }
}
