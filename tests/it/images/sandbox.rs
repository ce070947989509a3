//! Guarantee 26: whatever the bytes, decoding costs the memory and time of one image, and one image.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use imgdex::testing::decode::{Attempt, Preprocess, Sampling, Settings, memory};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use crate::support::decoders::{Observed, decoders_of, runs, settings};
use crate::support::poll;
use crate::support::process;
use crate::support::report::{report, scaled};

const SAMPLING: Sampling = Sampling { preprocess: Preprocess::Imgdex2, size: 224 };

fn fixture(name: &str) -> Bytes {
    fs::read(fixture_path(name)).unwrap().into()
}

fn fixture_path(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images").join(name).to_str().unwrap().to_owned()
}

/// A stage with one decoder.
fn alone() -> Observed {
    Observed::new(1, SAMPLING)
}

fn send(pid: u32, signal: Signal) {
    // It may have ended.
    let _ = kill(Pid::from_raw(pid.try_into().unwrap()), signal);
}

#[tokio::test]
async fn a_decoder_can_do_nothing_but_decode() {
    let stage = alone();
    let guard = stage.decoder.prepare().await.unwrap().to_string();
    assert!(guard.contains("seccomp") && !guard.contains("no seccomp"), "{guard}");
    for attempt in Attempt::ESCAPES {
        let result = stage.decoder.attempt(attempt).await.unwrap();
        assert_eq!(result.unwrap_err(), "it made a forbidden system call", "{attempt:?}");
    }
    stage.decoder.decode(fixture("rgb.png")).await.unwrap();
}

#[tokio::test]
async fn memory_and_time_without_end_end_the_decoder() {
    let stage = alone();
    for (attempt, reason) in [(Attempt::Memory, "it needed more memory"), (Attempt::Time, "it took more than 2.0 s")] {
        let peak = stage.peak_memory();
        let start = Instant::now();
        let ended = stage.decoder.attempt(attempt).await.unwrap().unwrap_err();
        assert!(ended.starts_with(reason), "{ended}");
        let Settings { max_pixels, max_file_bytes, .. } = settings(1);
        let bound = memory(max_pixels, 1, max_file_bytes);
        assert!(peak.bytes() < bound, "{} bytes, more than {bound}", peak.bytes());
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
        stage.decoder.decode(fixture("rgb.png")).await.unwrap();
    }
}

#[tokio::test]
async fn a_decoder_that_crashes_costs_its_image_alone() {
    let stage = alone();
    for (crash, cause) in [(Signal::SIGSEGV, "signal"), (Signal::SIGBUS, "signal"), (Signal::SIGSYS, "system_call")] {
        let before = stage.killed(cause);
        let error = crashed(&stage, crash).await;
        assert!(error.starts_with(&format!("the decoder was killed ({cause})")), "{error}");
        assert_eq!(stage.killed(cause), before + 1);
        stage.decoder.decode(fixture("rgb.png")).await.unwrap();
    }
}

/// The error of an image whose decoder dies of this signal while it has the image.
async fn crashed(stage: &Observed, crash: Signal) -> String {
    let mut pause = Duration::from_millis(1);
    loop {
        stage.decoder.decode(fixture("rgb.png")).await.unwrap();
        let pid = stage.processes()[0];
        // It dies of the signal when it goes on. Where that was before it had its job, it has been replaced: later, then.
        send(pid, Signal::SIGSTOP);
        send(pid, crash);
        let go_on = async {
            tokio::time::sleep(pause).await;
            send(pid, Signal::SIGCONT);
        };
        let (decoded, ()) = tokio::join!(stage.decoder.decode(fixture("rgb.png")), go_on);
        if let Err(error) = decoded {
            return error.to_string();
        }
        pause *= 2;
        assert!(pause < Duration::from_secs(1), "no decoder died while it had an image");
    }
}

#[tokio::test]
async fn a_decoder_that_ends_between_two_images_is_replaced() {
    let stage = alone();
    stage.decoder.decode(fixture("rgb.png")).await.unwrap();
    let pid = stage.processes()[0];
    send(pid, Signal::SIGKILL);
    poll::until("the end of the decoder", async || if runs(pid) { Err("it runs".to_owned()) } else { Ok(()) }).await;
    stage.decoder.decode(fixture("rgb.png")).await.unwrap();
    assert_eq!(stage.killed("signal"), 0, "it decoded nothing");
}

#[tokio::test]
async fn too_little_address_space_is_said_at_the_start() {
    let home = tempfile::tempdir().unwrap();
    let command = format!(
        "ulimit -v 400000; exec {} embed --model stub {}",
        env!("CARGO_BIN_EXE_imgdex"),
        fixture_path("rgb.png")
    );
    let output = std::process::Command::new("sh").args(["-c", &command]).env("HOME", home.path()).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && stderr.contains("too little address space (`ulimit -v`)"), "{stderr}");
}

#[tokio::test]
async fn a_decoder_has_no_environment_and_no_descriptor_but_its_own() {
    let stage = alone();
    stage.decoder.decode(fixture("rgb.png")).await.unwrap();
    for pid in stage.processes() {
        assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"", "the environment of {pid}");
        let descriptors: BTreeMap<_, _> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), fs::read_link(entry.path()).unwrap()))
            .collect();
        let kinds: Vec<_> =
            descriptors.values().map(|path| path.to_str().unwrap().split(':').next().unwrap()).collect();
        assert_eq!(kinds, ["socket", "/dev/null", "pipe", "socket"], "{descriptors:?}");
    }
    assert_eq!(stage.processes().len(), 1);
}

#[tokio::test]
async fn decoders_that_somebody_kills_cost_no_image() {
    let images: u64 = scaled(60, 1000);
    let stage = alone();
    let file = fixture("baseline-420.jpg");
    let mut kills = 0;
    for image in 0..images {
        // At every moment of a decoding: each image is met at most once, at a time that grows from image to image.
        let pids = stage.processes();
        let kill = pids.first().filter(|_| image % 3 == 0).map(|&pid| {
            thread::spawn(move || {
                thread::sleep(Duration::from_micros(50 * (image % 200)));
                send(pid, Signal::SIGKILL);
            })
        });
        kills += usize::from(kill.is_some());
        stage.decoder.decode(file.clone()).await.unwrap();
        if let Some(kill) = kill {
            kill.join().unwrap();
        }
    }
    let counted = stage.killed("signal");
    assert!(counted > 0, "no kill met a decoding");
    report(26, format_args!("{images} images decoded, {kills} kills, {counted} of them while it decoded"));
}

#[tokio::test]
async fn a_decoder_that_is_stopped_is_replaced() {
    let stage = alone();
    stage.decoder.decode(fixture("rgb.png")).await.unwrap();
    let stopped = stage.processes()[0];
    send(stopped, Signal::SIGSTOP);
    let start = Instant::now();
    stage.decoder.decode(fixture("rgb.png")).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(stage.killed("time"), 1);
    assert!(!runs(stopped), "it still exists");
    assert_ne!(stage.processes(), [stopped]);
}

#[tokio::test]
async fn decoders_ignore_the_signals_that_are_meant_for_the_whole_group() {
    let stage = alone();
    stage.decoder.decode(fixture("rgb.png")).await.unwrap();
    let before = stage.processes();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        send(before[0], signal);
    }
    stage.decoder.decode(fixture("rgb.png")).await.unwrap();
    assert_eq!(stage.processes(), before);
}

#[tokio::test]
async fn decoders_end_with_the_process_that_started_them_even_if_they_are_stopped() {
    // Reads its second line never, so it stays.
    let mut command = process::Open::start(&["embed", "--model", "stub", "-"]);
    command.write_line(&fixture_url("rgb.png"));
    let decoder = poll::until("a decoder", async || {
        decoders_of(command.pid()).first().copied().ok_or_else(|| "there is none".to_owned())
    })
    .await;
    send(decoder, Signal::SIGSTOP);
    command.kill();
    poll::until("the end of the decoder", async || if runs(decoder) { Err("it runs".to_owned()) } else { Ok(()) })
        .await;
}

fn fixture_url(name: &str) -> String {
    format!("file://{}", fixture_path(name))
}

/// Runs a command where the kernel knows no seccomp.
async fn without_seccomp(arguments: &'static [&'static str]) -> process::Finished {
    let (finished, awaited) = tokio::sync::oneshot::channel();
    // Filters belong to a thread and what it starts.
    thread::spawn(move || {
        let rules = [(libc::SYS_seccomp, Vec::new())].into();
        let refuse = SeccompAction::Errno(libc::ENOSYS as u32);
        let arch = TargetArch::try_from(std::env::consts::ARCH).unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch).unwrap();
        seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
        let _ = finished.send(process::run_here(arguments, ""));
    });
    awaited.await.unwrap()
}

#[tokio::test]
async fn where_the_kernel_refuses_seccomp_it_is_said_once_and_the_limits_stay() {
    static IMAGES: std::sync::LazyLock<Vec<String>> =
        std::sync::LazyLock::new(|| ["rgb.png", "grey.png", "rgb.bmp"].map(fixture_path).into());
    let arguments: Vec<&'static str> =
        ["embed", "--model", "stub"].into_iter().chain(IMAGES.iter().map(String::as_str)).collect();
    let embedded = without_seccomp(arguments.leak()).await;
    assert_eq!(embedded.code, Some(0), "{}", embedded.stderr);
    assert_eq!(embedded.stdout.lines().count(), 3);
    assert_eq!(embedded.stderr.matches("this kernel refuses seccomp").count(), 1, "{}", embedded.stderr);
    let checked = without_seccomp(&["doctor", "--output", "ndjson"]).await;
    let line = checked.stdout.lines().find(|line| line.contains("\"decoders\"")).unwrap();
    // Descriptors and files are refused without it as well; of the rest it says what is left.
    assert!(line.contains("no seccomp") && !line.contains("open") && !line.contains("write"), "{line}");
}
