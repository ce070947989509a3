//! `imgdex bench`.

use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::cli::args::{ModelArgs, OutputFormat};
use crate::cli::output::{self, OutputArgs, Table};
use crate::cli::{Error, Exit};
use crate::decode::pixels::Pixels;
use crate::extract::MAX_BATCH;
use crate::machine;
use crate::model::Model;
use crate::model::compute::Compute;
use crate::model::vgg16::kernels::{self, INPUT_SIZE};
use crate::model::vgg16::{self, BLOCKS, Vgg16, convolutions};

/// Measure how fast this machine computes features
#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Forward passes of each batch size
    #[arg(long, env = "IMGDEX_BENCH_RUNS", default_value = "30", value_name = "N")]
    runs: NonZeroU32,
    #[command(flatten)]
    output: OutputArgs,
}

/// What was measured. Times are milliseconds; those of passes are medians, per image.
#[derive(Serialize)]
struct Report {
    kernel: &'static str,
    plan: Option<&'static str>,
    threads: usize,
    batch1_ms: f64,
    batch8_ms: f64,
    batch1_best_ms: f64,
    batch8_best_ms: f64,
    /// What a direct convolution would have to do in the time of `batch8_ms`.
    direct_gflops: f64,
    /// What the threads reach when they multiply and add in registers only.
    peak_gflops: Option<f64>,
    /// From files to a network that is ready for an image.
    start_ms: f64,
    /// The same where weights are packed into memory first.
    packing_start_ms: Option<f64>,
    /// Memory of the process after the passes, in MB, and the part of it that other processes share.
    rss_mb: f64,
    shared_mb: f64,
    layers: Vec<Layer>,
}

/// A convolution in a batch of eight.
#[derive(Serialize)]
struct Layer {
    name: String,
    ms: f64,
    /// What a direct convolution would have to do in this time.
    direct_gflops: f64,
    /// Of the time of all convolutions.
    share: f64,
}

/// Runs the command.
pub async fn run(args: BenchArgs) -> Result<Exit, Error> {
    let format = args.output.format();
    let report = tokio::task::spawn_blocking(move || measure(&args));
    let report = report.await.map_err(|error| Error::new(Exit::Io, format!("the measurement failed: {error}")))??;
    match format {
        OutputFormat::Table => output::last_line(report.text().trim_end())?,
        OutputFormat::Json | OutputFormat::Ndjson => output::last_line(output::to_json(&report)?)?,
    }
    Ok(Exit::Done)
}

fn measure(args: &BenchArgs) -> Result<Report, Error> {
    let manifest = args.model.manifest()?;
    let folder = args.model.folder()?;
    let compute = args.model.compute();
    let load = |compute: &Compute| {
        let start = Instant::now();
        let model = crate::model::load::load_vgg16(&manifest, &folder, compute)?;
        Ok::<_, Error>((model, milliseconds(start.elapsed())))
    };
    let packing_start_ms = match compute.instructions() {
        Some(_) => Some(load(&Compute { no_packed_file: true, ..compute })?.1),
        None => None,
    };
    // Packs the weights if no start has done so before.
    drop(load(&compute)?);
    let (mut model, start_ms) = load(&compute)?;

    let mut random = fastrand::Rng::with_seed(1);
    let images: Vec<_> = (0..MAX_BATCH)
        .filter_map(|_| {
            let rgb = std::iter::repeat_with(|| random.u8(..)).take(manifest.sampling().bytes());
            Pixels::new(manifest.input_size, rgb.collect())
        })
        .collect();
    let one = passes(&mut model, &images[..1], args.runs.get())?;
    let eight = passes(&mut model, &images, args.runs.get())?;
    let layers = layers(&model, &images, args.runs.get())?;
    let peak = compute.instructions().map(|set| kernels::peak(set, compute.threads)).transpose();
    let (rss_mb, shared_mb) = memory();
    Ok(Report {
        kernel: compute.kernel_name(),
        plan: compute.instructions().map(|_| vgg16::plan(compute.plan).name()),
        threads: args.model.thread_count(),
        batch1_ms: one.median,
        batch8_ms: eight.median,
        batch1_best_ms: one.best,
        batch8_best_ms: eight.best,
        direct_gflops: operations().iter().sum::<f64>() / 1e6 / eight.median,
        peak_gflops: peak.map_err(crate::model::Error::from)?.map(|peak| peak / 1e9),
        start_ms,
        packing_start_ms,
        rss_mb,
        shared_mb,
        layers,
    })
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Milliseconds per image.
struct Passes {
    median: f64,
    best: f64,
}

fn passes(model: &mut Vgg16, images: &[Pixels], runs: u32) -> Result<Passes, crate::model::Error> {
    model.embed(images)?;
    let mut times = Vec::new();
    for _ in 0..runs {
        let start = Instant::now();
        model.embed(images)?;
        times.push(milliseconds(start.elapsed()) / images.len() as f64);
    }
    times.sort_by(f64::total_cmp);
    Ok(Passes { median: times[times.len() / 2], best: times[0] })
}

/// The median time of each convolution. The first two are done together.
fn layers(model: &Vgg16, images: &[Pixels], runs: u32) -> Result<Vec<Layer>, crate::model::Error> {
    let mut passes = Vec::new();
    for _ in 0..runs {
        let Some(times) = model.times(images)? else { return Ok(Vec::new()) };
        passes.push(times);
    }
    let median = |layer: usize| {
        let mut times: Vec<_> = passes.iter().map(|times| times[layer]).collect();
        times.sort();
        milliseconds(times[times.len() / 2]) / images.len() as f64
    };
    let medians: Vec<_> = (0..passes[0].len()).map(median).collect();
    let total: f64 = medians.iter().sum();
    let operations = operations();
    let mut names = convolutions().map(|(name, ..)| name);
    let first = names.next().unwrap_or_default();
    Ok(names
        .zip(&medians)
        .enumerate()
        .map(|(number, (name, &ms))| Layer {
            name: if number == 0 { format!("{first} + {name}") } else { name },
            ms,
            direct_gflops: (operations[number + 1] + if number == 0 { operations[0] } else { 0.0 }) / 1e6 / ms,
            share: ms / total,
        })
        .collect())
}

/// Floating-point operations of each convolution, done directly, for one image.
fn operations() -> Vec<f64> {
    // Each block halves the map of the one before.
    let sizes = BLOCKS.iter().enumerate().flat_map(|(block, layers)| vec![INPUT_SIZE >> block; layers.len()]);
    convolutions()
        .zip(sizes)
        .map(|((_, inputs, outputs), size)| (2 * 9 * inputs * outputs * size * size) as f64)
        .collect()
}

/// What the process has in memory, and what of it is in files, in MB; zeros where the system does not tell.
fn memory() -> (f64, f64) {
    let megabytes = |name| machine::proc_field_bytes("/proc/self/status", name).unwrap_or(0) as f64 / 1e6;
    (megabytes("VmRSS"), megabytes("RssFile"))
}

impl Report {
    fn text(&self) -> String {
        let mut summary = Table::new(&["", ""], &[]);
        let mut row = |name: &str, value: String| summary.row([name.to_owned(), value]);
        row("kernel", self.plan.map_or(self.kernel.to_owned(), |plan| format!("{}, plan {plan}", self.kernel)));
        row("threads", self.threads.to_string());
        let times = |median: f64, best: f64| format!("{median:.2} ms per image (best {best:.2})");
        row("batch of 1", times(self.batch1_ms, self.batch1_best_ms));
        row("batch of 8", times(self.batch8_ms, self.batch8_best_ms));
        let mut speed = format!("{:.0} GFLOP/s, as direct convolutions count", self.direct_gflops);
        if let Some(peak) = self.peak_gflops {
            let _ = write!(speed, ": {:.2} of the peak of {peak:.0}", self.direct_gflops / peak);
        }
        row("speed", speed);
        let packing = self.packing_start_ms.map_or(String::new(), |ms| format!(" ({ms:.0} ms with packing)"));
        row("start", format!("{:.0} ms{packing}", self.start_ms));
        row(
            "memory",
            format!("{:.0} MB, of which {:.0} MB are files that processes share", self.rss_mb, self.shared_mb),
        );
        let mut layers = Table::new(&["convolution", "ms", "GFLOP/s", "share"], &[1, 2, 3]);
        for Layer { name, ms, direct_gflops, share } in &self.layers {
            let share = format!("{:.0} %", share * 100.0);
            layers.row([name.clone(), format!("{ms:.2}"), format!("{direct_gflops:.0}"), share]);
        }
        if self.layers.is_empty() { summary.to_string() } else { format!("{summary}\n{layers}") }
    }
}
