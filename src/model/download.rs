//! Downloads the official weight file over HTTPS, and resumes an interrupted download.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use md5::{Digest, Md5};
use reqwest::{Client, StatusCode, header};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::manifest::WeightsSource;
use super::weights::{Error, MAX_IMPORT_BYTES, download_path};
use crate::error_chain::innermost_cause;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest pause between two reads.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Called with the bytes so far, and the size of the file if the server gives it.
pub type Progress<'a> = &'a mut (dyn FnMut(u64, Option<u64>) + Send);

/// Downloads a source into a folder and checks its MD5. Returns the file, which the caller removes after use. A partial file stays,
/// and the next call resumes it.
///
/// # Errors
/// [`Error::Download`] or [`Error::Io`].
pub async fn download(
    source: &WeightsSource,
    url: &str,
    folder: &Path,
    progress: Progress<'_>,
) -> Result<PathBuf, Error> {
    let failed = |reason: String| Error::Download { url: url.to_owned(), reason };
    fs::create_dir_all(folder).await.map_err(|source| Error::Io { path: folder.to_owned(), source })?;
    let path = download_path(source, folder);
    let client = Client::builder()
        // A range counts bytes of the file as it is.
        .no_gzip()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .user_agent(concat!("imgdex/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| failed(cause(&error)))?;
    let mut partial = Partial::open(path).await?;
    let complete = partial.md5() == source.md5;
    if !complete && let Err(fault) = partial.fetch(&client, url, progress).await {
        if partial.bytes == 0 {
            // There is nothing to resume.
            let _ = fs::remove_file(&partial.path).await;
        }
        return Err(match fault {
            Fault::Host(reason) => failed(reason),
            Fault::Disk(source) => Error::Io { path: partial.path, source },
        });
    }
    let found = partial.md5();
    if found == source.md5 {
        return Ok(partial.path);
    }
    // A resumed download could not correct it.
    let _ = fs::remove_file(&partial.path).await;
    Err(failed(format!("the file's MD5 is {found}, but {} was expected", source.md5)))
}

enum Fault {
    Host(String),
    Disk(std::io::Error),
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        Self::Disk(error)
    }
}

/// The file so far.
struct Partial {
    path: PathBuf,
    file: File,
    bytes: u64,
    hash: Md5,
}

impl Partial {
    async fn open(path: PathBuf) -> Result<Self, Error> {
        match Self::read(&path).await {
            Ok((file, bytes, hash)) => Ok(Self { path, file, bytes, hash }),
            Err(source) => Err(Error::Io { path, source }),
        }
    }

    async fn read(path: &Path) -> std::io::Result<(File, u64, Md5)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).await?;
        let file = file.into_std().await;
        // Two writers would mix their bytes.
        file.try_lock().map_err(|error| std::io::Error::other(format!("another fetch is running: {error}")))?;
        let mut file = File::from_std(file);
        let (mut bytes, mut hash, mut buffer) = (0, Md5::new(), vec![0; 1 << 16]);
        loop {
            let count = file.read(&mut buffer).await?;
            if count == 0 {
                return Ok((file, bytes, hash));
            }
            hash.update(&buffer[..count]);
            bytes += count as u64;
        }
    }

    fn md5(&self) -> String {
        format!("{:x}", self.hash.clone().finalize())
    }

    async fn restart(&mut self) -> std::io::Result<()> {
        self.file.set_len(0).await?;
        self.file.seek(SeekFrom::Start(0)).await?;
        (self.bytes, self.hash) = (0, Md5::new());
        Ok(())
    }

    /// Fetches the missing part.
    async fn fetch(&mut self, client: &Client, url: &str, progress: Progress<'_>) -> Result<(), Fault> {
        let mut request = client.get(url);
        if self.bytes > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", self.bytes));
        }
        let response = request.send().await.map_err(|error| Fault::Host(cause(&error)))?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT if starts_at(&response, self.bytes) => {}
            // The whole file, whether or not a range was requested.
            StatusCode::OK => self.restart().await?,
            StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::PARTIAL_CONTENT => {
                self.restart().await?;
                return Err(Fault::Host("the partial file does not fit; try again".to_owned()));
            }
            status => return Err(Fault::Host(format!("the server answered {status}"))),
        }
        let total = response.content_length().map(|rest| rest + self.bytes);
        if total.is_some_and(|total| total > MAX_IMPORT_BYTES) {
            return Err(Fault::Host("the file is far larger than the weights".to_owned()));
        }
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(error) => {
                    self.file.flush().await?;
                    return Err(Fault::Host(format!(
                        "{} after {} bytes; run it again to resume",
                        cause(&error),
                        self.bytes
                    )));
                }
            };
            self.file.write_all(&chunk).await?;
            self.hash.update(&chunk);
            self.bytes += chunk.len() as u64;
            if self.bytes > MAX_IMPORT_BYTES {
                return Err(Fault::Host("the file is far larger than the weights".to_owned()));
            }
            progress(self.bytes, total);
        }
        Ok(self.file.flush().await?)
    }
}

/// Whether a partial response begins where the file ends.
fn starts_at(response: &reqwest::Response, offset: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {offset}-")))
}

fn cause(error: &reqwest::Error) -> String {
    innermost_cause(error).unwrap_or_else(|| error.to_string())
}
