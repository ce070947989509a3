//! What SOURCE arguments stand for: files, folders, URLs, lists, standard input; one image after the other, never
//! collected first.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use tokio::sync::mpsc;
use url::Url;
use walkdir::WalkDir;

use crate::excerpt::excerpt;
use crate::message::{self, VersionSource, WireReference};

/// The help text of a SOURCE argument.
pub const HELP: &str = "Image file, folder, URL, .txt list, or - for standard input";

/// The long help text of a SOURCE argument.
pub const LONG_HELP: &str = "\
What to take, any number of:
  FILE    an image, whatever its name ends in
  FOLDER  every image file below it, in order of names, hidden ones left out; its name
          ends in .jpg .jpeg .jpe .jfif .png .apng .webp .gif .bmp .dib .tif .tiff .heic
          .heif .avif or .jxl
  URL     http:// or https://
  X.txt   a list: one file, folder, URL or JSON reference per line; # begins a comment;
          relative paths are relative to the list
  -       the same lines from standard input, taken as they arrive";

/// Names that a folder is searched for. Some of these formats are refused later, by name: better than to pass over a
/// photograph in silence.
const EXTENSIONS: [&str; 16] = [
    "jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "heic", "heif", "avif",
    "jxl",
];

/// Longest line of a list: far more than any valid reference, and a bound on memory for input that has no lines.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Sources found ahead of their use: enough that a slow folder does not hold up the pipeline, little memory.
const AHEAD: usize = 64;

/// One image, or one deletion, that the arguments name.
#[derive(Clone, Debug)]
pub struct Source {
    /// How to name it to the user: the argument as given; within a folder the argument joined with the relative path;
    /// within a list the line.
    pub name: String,
    /// Where the image is, in canonical form; `file:` for local ones. Only a line with an id alone has none, which no stage takes
    /// unless it is a deletion.
    pub url: Option<Url>,
    /// What a message about it says; its `url` is the one above.
    pub reference: WireReference,
}

/// An argument, or a line of a list, that names no image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// As [`Source::name`].
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.reason)
    }
}

/// Called for each item as it ends: done, or the name and reason of one that failed.
pub type Report<'a> = &'a mut (dyn FnMut(Result<(), &Failed>) + Send);

/// A source, or why there is none. One bad argument does not stop the others.
pub type Item = Result<Source, Failed>;

/// The sources of a command line, found on a thread of their own, at most a few ahead of their use.
pub struct Sources {
    items: mpsc::Receiver<Item>,
}

impl Sources {
    /// Starts finding sources.
    pub fn find(arguments: Vec<OsString>) -> io::Result<Self> {
        let (found, items) = mpsc::channel(AHEAD);
        // A plain thread, because a read from a terminal cannot be cancelled: the process may end while it waits.
        std::thread::Builder::new()
            .name("sources".into())
            .spawn(move || {
                for item in expand(arguments) {
                    if found.blocking_send(item).is_err() {
                        return;
                    }
                }
            })
            .map_err(|error| {
                io::Error::new(error.kind(), format!("the thread that reads the sources did not start: {error}"))
            })?;
        Ok(Self { items })
    }

    /// The next source; `None` after the last one.
    pub async fn next(&mut self) -> Option<Item> {
        self.items.recv().await
    }
}

type Items = Box<dyn Iterator<Item = Item> + Send>;

/// Every source that the arguments stand for, in order.
pub fn expand(arguments: Vec<OsString>) -> impl Iterator<Item = Item> + Send {
    arguments.into_iter().flat_map(|argument| {
        if argument == "-" {
            return lines("standard input".to_owned(), BufReader::new(io::stdin()), PathBuf::new());
        }
        let path = Path::new(&argument);
        if is_list(path) { list(path) } else { one(&argument, Path::new("")) }
    })
}

/// How many sources there are, without reading standard input or a pipe; `None` where only reading would tell.
pub fn count(arguments: Vec<OsString>) -> Option<u64> {
    let endless =
        |argument: &OsString| argument == "-" || (is_list(argument.as_ref()) && !Path::new(argument).is_file());
    if arguments.iter().any(endless) { None } else { Some(expand(arguments).count() as u64) }
}

/// A file, folder or URL. Relative paths are relative to `base`.
fn one(text: &OsStr, base: &Path) -> Items {
    let name = text.to_string_lossy().into_owned();
    if has_scheme(&name) {
        return single(url(name));
    }
    let path = base.join(text);
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => folder(text.into(), path),
        Ok(_) => single(file(name, &path)),
        Err(error) => single(Err(Failed { name, reason: error.to_string() })),
    }
}

fn single(item: Item) -> Items {
    Box::new(std::iter::once(item))
}

/// Whether this is a URL rather than a path: `scheme://`, or `file:` in its short form.
fn has_scheme(text: &str) -> bool {
    let letters = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    text.split_once("://").is_some_and(|(scheme, _)| letters(scheme))
        || text.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("file:"))
}

fn url(name: String) -> Item {
    checked(name.clone(), WireReference { url: Some(name), ..WireReference::default() })
}

fn file(name: String, path: &Path) -> Item {
    match file_url(path) {
        Ok(url) => checked(name, WireReference { url: Some(url.into()), ..WireReference::default() }),
        Err(reason) => Err(Failed { name, reason }),
    }
}

/// The `file:` URL that a local image is stored under.
///
/// Symbolic links stay as they were named, so that a link that is pointed elsewhere stays the same document; only a
/// path with `..` must be resolved, because a URL would drop that together with the link before it.
fn file_url(path: &Path) -> Result<Url, String> {
    let upwards = path.components().any(|part| part == Component::ParentDir);
    let absolute = if upwards { path.canonicalize() } else { std::path::absolute(path) };
    let absolute = absolute.map_err(|error| error.to_string())?;
    Url::from_file_path(&absolute).map_err(|()| "this path cannot be written as a file: URL".to_owned())
}

/// Fills in the canonical URL, and refuses what no stage would take. A line with an id alone may become a deletion.
fn checked(name: String, mut reference: WireReference) -> Item {
    match message::check(reference.clone(), (0, VersionSource::FirstReceipt)) {
        Err(message::Error::MissingTarget) if reference.id.is_some() => Ok(Source { name, url: None, reference }),
        Ok(checked) => {
            reference.url = checked.url.as_ref().map(Url::to_string);
            Ok(Source { name, url: checked.url, reference })
        }
        Err(error) => Err(Failed { name, reason: error.to_string() }),
    }
}

fn folder(argument: PathBuf, path: PathBuf) -> Items {
    let shown = argument.clone();
    let mut images = WalkDir::new(&path)
        .follow_links(true)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry.file_name()))
        .filter_map(move |entry| in_folder(&argument, &path, entry))
        .peekable();
    if images.peek().is_none() {
        let reason = format!(
            "no image files in this folder (names ending in .{}); an image of another name can be given itself",
            EXTENSIONS.join(" .")
        );
        return single(Err(Failed { name: shown.to_string_lossy().into_owned(), reason }));
    }
    Box::new(images)
}

fn in_folder(argument: &Path, root: &Path, entry: walkdir::Result<walkdir::DirEntry>) -> Option<Item> {
    let name = |path: &Path| argument.join(path.strip_prefix(root).unwrap_or(path)).to_string_lossy().into_owned();
    match entry {
        Ok(entry) if entry.file_type().is_dir() || !is_image_name(entry.path()) => None,
        Ok(entry) => Some(file(name(entry.path()), entry.path())),
        // A link to a folder above it: all of it is found without the link.
        Err(error) if error.loop_ancestor().is_some() => None,
        Err(error) => {
            let name = error.path().map_or_else(|| argument.to_string_lossy().into_owned(), name);
            let reason = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
            Some(Err(Failed { name, reason }))
        }
    }
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().first() == Some(&b'.')
}

fn is_image_name(path: &Path) -> bool {
    path.extension().is_some_and(|found| EXTENSIONS.iter().any(|known| found.eq_ignore_ascii_case(known)))
}

/// Whether an argument names a list.
pub fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt"))
        && !path.is_dir()
        && !has_scheme(&path.to_string_lossy())
}

fn list(path: &Path) -> Items {
    let name = path.to_string_lossy().into_owned();
    match File::open(path) {
        Ok(file) => lines(name, BufReader::new(file), path.parent().unwrap_or(Path::new("")).to_owned()),
        Err(error) => single(Err(Failed { name, reason: error.to_string() })),
    }
}

/// The sources of a list. A line that cannot be read ends the list; one that is no source does not.
fn lines(list: String, mut reader: impl BufRead + Send + 'static, base: PathBuf) -> Items {
    let mut number = 0_u64;
    let mut broken = false;
    let texts = std::iter::from_fn(move || {
        if broken {
            return None;
        }
        number += 1;
        let failed = |reason: String| Failed { name: format!("{list}, line {number}"), reason };
        match read_line(&mut reader) {
            Ok(Some(Ok(line))) => Some(Ok(line)),
            Ok(Some(Err(reason))) => Some(Err(failed(reason.to_owned()))),
            Ok(None) => None,
            Err(error) => {
                broken = true;
                Some(Err(failed(error.to_string())))
            }
        }
    });
    Box::new(texts.flat_map(move |text| match text {
        Ok(text) => line(text.trim_start_matches('\u{feff}').trim(), &base),
        Err(failed) => single(Err(failed)),
    }))
}

fn line(text: &str, base: &Path) -> Items {
    if text.is_empty() || text.starts_with('#') {
        return Box::new(std::iter::empty());
    }
    if text.starts_with(['{', '"']) {
        return single(json(text));
    }
    if is_list(Path::new(text)) {
        return single(Err(Failed { name: text.to_owned(), reason: "a list cannot name another list".to_owned() }));
    }
    one(text.as_ref(), base)
}

fn json(text: &str) -> Item {
    match message::read(text.as_bytes()) {
        Ok(reference) => {
            let name = reference.url.clone().or_else(|| reference.id.clone()).unwrap_or_else(|| text.to_owned());
            checked(name, reference)
        }
        Err(error) => Err(Failed { name: excerpt(text, 80), reason: error.to_string() }),
    }
}

/// One line without its end; the inner error is the line's own fault.
pub(crate) fn read_line(reader: &mut impl BufRead) -> io::Result<Option<Result<String, &'static str>>> {
    let mut line = Vec::new();
    if reader.take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.len() as u64 == MAX_LINE_BYTES && !line.ends_with(b"\n") {
        reader.skip_until(b'\n')?;
        return Ok(Some(Err("the line is longer than 1 MiB")));
    }
    Ok(Some(String::from_utf8(line).map_err(|_| "the line is not UTF-8 text")))
}

#[cfg(test)]
mod tests;
