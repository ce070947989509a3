//! Local files, for commands that a user runs on own files.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::runtime::Handle;
use url::Url;

use super::error::Error;
use super::limits::body::Body;

/// How much is read at a time.
const PIECE: usize = 64 << 10;

/// Reads a `file:` URL into `body`.
pub(super) async fn read(url: &Url, body: Body) -> Result<Bytes, Error> {
    let Ok(path) = url.to_file_path() else {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "not the path of a local file");
        return Err(Error::File { path: PathBuf::from(url.path()), source });
    };
    let reading = path.clone();
    let runtime = Handle::current();
    match tokio::task::spawn_blocking(move || read_regular(&reading, body, &runtime)).await {
        Ok(result) => result,
        Err(error) => Err(Error::File { path, source: io::Error::other(error) }),
    }
}

fn read_regular(path: &Path, mut body: Body, runtime: &Handle) -> Result<Bytes, Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    // Before opening: opening a FIFO waits for its writer, and opening a device may have any effect.
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    if !metadata.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    body.announce(metadata.len())?;
    let mut file = File::open(path).map_err(failed)?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(body.finish()),
            Ok(read) => runtime.block_on(body.push(&piece[..read]))?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}
