//! A web server of images: the fixtures, some of them slow or broken.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use url::Url;

use super::http::{Act, Request, WebHost, answer, send};

/// How long a slow image takes.
const SLOW: Duration = Duration::from_millis(1500);
/// Parts of a slow image.
const PARTS: usize = 30;

/// The running server. By the first part of a path:
/// - `/good` an image at once
/// - `/slow` an image over 1.5 s
/// - `/held` no answer while images are held, then an image
/// - `/late` 404 to the first request of a path, which asks to come back after the seconds in its third part, then an image
/// - `/busy` 503 to the first request of a path, then an image
/// - `/mended` 404 until the test mends the path, then an image
/// - `/deadly` an image that ends a process with the stub model
/// - `/reset` a broken connection to the first three requests of a path, then an image
/// - `/page` HTML, `/text` text, `/half` half a JPEG, anything else 404
pub struct Images {
    host: WebHost,
    released: watch::Sender<bool>,
    /// How often each path was served since it was mended.
    mended: Arc<Mutex<HashMap<String, u64>>>,
}

impl Images {
    /// Starts on a free port of 127.0.0.1.
    pub async fn start() -> Self {
        let (released, seen) = watch::channel(false);
        let files: Vec<Vec<u8>> = files().iter().map(|path| fs::read(path).unwrap()).collect();
        let jpeg = fs::read(folder().join("baseline-444.jpg")).unwrap();
        let deadly = deadly();
        assert!(!files.is_empty());
        let asked = Mutex::new(HashMap::<String, usize>::new());
        let mended = Arc::<Mutex<HashMap<String, u64>>>::default();
        let mending = Arc::clone(&mended);
        let host = WebHost::start(move |request: &Request| {
            let mut parts = request.target().trim_start_matches('/').split('/');
            let kind = parts.next().unwrap_or_default();
            let number: usize = parts.next().and_then(|number| number.parse().ok()).unwrap_or_default();
            let image = &files[number % files.len()];
            let before = || {
                let mut asked = asked.lock().unwrap();
                let count = asked.entry(request.target().to_owned()).or_default();
                *count += 1;
                *count - 1
            };
            match kind {
                "held" => [vec![Act::Await(seen.clone())], send("200 OK", "", image)].concat(),
                "late" if before() < 1 => {
                    send("404 Not Found", &format!("Retry-After: {}\r\n", parts.next().unwrap()), b"")
                }
                // Longer than a worker waits without a retry queue.
                "busy" if before() < 1 => send("503 Service Unavailable", "Retry-After: 30\r\n", b""),
                // More requests than one attempt makes.
                "reset" if before() < 3 => vec![Act::Reset],
                "good" | "late" | "busy" | "reset" => send("200 OK", "", image),
                "mended" if let Some(served) = mending.lock().unwrap().get_mut(request.target()) => {
                    *served += 1;
                    send("200 OK", "", image)
                }
                "slow" => {
                    let start = answer("200 OK", &format!("Content-Length: {}\r\n", image.len()), b"");
                    let pieces = image.chunks(image.len().div_ceil(PARTS));
                    let pause = SLOW / PARTS as u32;
                    // `Drip` pauses after each byte, so it sends only the last byte of a piece.
                    let drips = pieces.flat_map(|piece| {
                        let (last, rest) = piece.split_last().unwrap();
                        [Act::Send(rest.to_vec()), Act::Drip(vec![*last], pause)]
                    });
                    std::iter::once(Act::Send(start)).chain(drips).collect()
                }
                "deadly" => send("200 OK", "", &deadly),
                "page" => send("200 OK", "Content-Type: image/png\r\n", b"<!doctype html><title>no image</title>"),
                "text" => send("200 OK", "Content-Type: image/png\r\n", b"no image either"),
                "half" => send("200 OK", "", &jpeg[..jpeg.len() / 2]),
                _ => send("404 Not Found", "", b""),
            }
        })
        .await;
        Self { host, released, mended }
    }

    /// The port, to be allowed.
    pub fn port(&self) -> u16 {
        self.host.port()
    }

    /// A URL of this host.
    pub fn url(&self, path: &str) -> String {
        self.host.url(path).to_string()
    }

    /// `count` different URLs. The fixtures are served in turn.
    pub fn urls(&self, kind: &str, count: usize) -> Vec<String> {
        (0..count).map(|number| self.url(&format!("/{kind}/{number}"))).collect()
    }

    /// How many requests came for paths of this kind.
    pub fn requests(&self, kind: &str) -> usize {
        let start = format!("/{kind}/");
        self.host.requests().iter().filter(|request| request.target().starts_with(&start)).count()
    }

    /// The paths that were requested, in order.
    pub fn requested(&self) -> Vec<String> {
        self.host.requests().iter().map(|request| request.target().to_owned()).collect()
    }

    /// Serves an image at this URL of the kind `mended` from now on.
    pub fn mend(&self, url: &str) {
        self.mended.lock().unwrap().entry(path(url)).or_default();
    }

    /// How often an image was served at a URL since it was mended.
    pub fn served_since_mended(&self, url: &str) -> u64 {
        self.mended.lock().unwrap().get(&path(url)).copied().unwrap_or_default()
    }

    /// Serves what is held.
    pub fn release(&self) {
        self.released.send_replace(true);
    }
}

fn path(url: &str) -> String {
    Url::parse(url).unwrap().path().to_owned()
}

/// An image of the colour that ends a process with the stub model.
fn deadly() -> Vec<u8> {
    let mut png = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_pixel(8, 8, image::Rgb([13, 66, 6]));
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
}

/// The fixtures that a worker decodes without further settings, in order of their names.
fn files() -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_none_or(|extension| extension != "tiff"));
    files.sort();
    files
}
