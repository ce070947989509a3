//! Import, packing and download of weights, with damaged files and broken downloads.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use crate::support::model_folder;

/// The genuine file, from `models/fetch.sh`.
fn genuine() -> PathBuf {
    model_folder().join("vgg16-notop.safetensors")
}

fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imgdex"));
    let Output { status, stdout, stderr } =
        command.args(arguments).env_clear().env("HOME", folder).env("IMGDEX_MODEL_DIR", folder).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn genuine_weights_are_imported_and_found() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let (code, _, stderr) = run(&model, &["model", "import", genuine().to_str().unwrap()]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(names(&model), ["vgg16-notop.safetensors"]);
    assert_eq!(std::fs::read(model.join("vgg16-notop.safetensors")).unwrap(), std::fs::read(genuine()).unwrap());
    let (code, stdout, _) = run(&model, &["model", "info", "--model", "vgg16"]);
    let info: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &info["weights"]), (Some(0), &"ok".into()));
}

#[test]
fn damaged_weights_are_refused_at_import_and_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let mut bytes = std::fs::read(genuine()).unwrap();
    let cut = folder.path().join("cut.safetensors");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let (code, _, stderr) = run(&model, &["model", "import", cut.to_str().unwrap()]);
    assert_eq!(code, Some(74));
    assert!(stderr.contains("cut.safetensors is no complete safetensors file"), "{stderr}");
    assert!(!model.exists() || names(&model).is_empty());

    // One bit of one weight.
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let bent = folder.path().join("bent.safetensors");
    std::fs::write(&bent, &bytes).unwrap();
    let (code, _, stderr) = run(&model, &["model", "import", bent.to_str().unwrap()]);
    assert_eq!(code, Some(74));
    assert!(stderr.contains("expected a canonical SHA-256 of d322682d") && stderr.contains("found "), "{stderr}");

    std::fs::create_dir_all(&model).unwrap();
    std::fs::rename(&bent, model.join("vgg16-notop.safetensors")).unwrap();
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/rgb.png");
    let (code, stdout, stderr) = run(&model, &["embed", image.to_str().unwrap()]);
    assert_eq!((code, stdout.as_str()), (Some(74), ""));
    assert!(stderr.contains("is damaged or of another model: its SHA-256 is"), "{stderr}");
    let (code, _, _) = run(&model, &["model", "info", "--model", "vgg16"]);
    assert_eq!(code, Some(1));
}

#[test]
fn nothing_starts_without_weights() {
    let folder = tempfile::tempdir().unwrap();
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/rgb.png");
    let (code, stdout, stderr) = run(folder.path(), &["embed", image.to_str().unwrap()]);
    assert_eq!((code, stdout.as_str()), (Some(74), ""));
    assert!(stderr.contains("`imgdex model fetch`") && stderr.contains("`imgdex model import FILE`"), "{stderr}");
}

#[test]
fn weights_are_packed_once_and_again_where_the_file_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path();
    std::fs::copy(genuine(), model.join("vgg16-notop.safetensors")).unwrap();
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images/rgb.png");
    let embed = |options: &[&str]| {
        let arguments = [&["embed", "--plan", "small", image.to_str().unwrap()], options].concat();
        let (code, stdout, stderr) = run(model, &arguments);
        assert_eq!(code, Some(0), "{stderr}");
        (stdout, stderr)
    };
    let (features, _) = embed(&["--no-packed-file"]);
    assert_eq!(names(model), ["vgg16-notop.safetensors"]);

    assert_eq!(embed(&[]).0, features);
    let [packed, _] = &names(model)[..] else { panic!("{:?}", names(model)) };
    assert!(packed.starts_with("vgg16-notop.") && packed.contains("-small-"), "{packed}");
    let packed = model.join(packed);
    let inode = || std::fs::metadata(&packed).unwrap().ino();
    let first = inode();
    assert_eq!(embed(&[]).0, features);
    assert_eq!(inode(), first, "packed a second time");

    let doctor = || {
        let (_, stdout, stderr) = run(model, &["doctor", "--plan", "small", "--output", "json"]);
        let findings: serde_json::Value = serde_json::from_str(&stdout).expect(&stderr);
        findings.as_array().unwrap().iter().find(|finding| finding["check"] == "weights").unwrap().clone()
    };
    let finding = doctor();
    assert_eq!(finding["state"], "ok", "{finding}");
    assert!(finding["detail"].as_str().unwrap().contains(packed.to_str().unwrap()), "{finding}");

    // Found only by reading every byte.
    let mut bytes = std::fs::read(&packed).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&packed, &bytes).unwrap();
    let finding = doctor();
    assert_eq!(finding["state"], "problem", "{finding}");
    assert!(
        finding["detail"].as_str().unwrap().contains("is damaged (its content is not what was written)"),
        "{finding}"
    );

    // Cut off, empty, and of other weights: found at the start.
    let cut = &bytes[..bytes.len() - 4];
    let other = [b"imgdex packed weights 0", &bytes[23..]].concat();
    for bad in [cut, &[][..], &other] {
        std::fs::write(&packed, bad).unwrap();
        assert_eq!(embed(&[]).0, features);
        assert_eq!(doctor()["state"], "ok");
    }

    // Where the file cannot be written, the weights stay in memory, with a warning.
    std::fs::remove_file(&packed).unwrap();
    std::fs::create_dir(&packed).unwrap();
    let (found, stderr) = embed(&[]);
    assert_eq!(found, features);
    assert!(stderr.contains("packed weights cannot be kept") && stderr.contains(packed.to_str().unwrap()), "{stderr}");
    assert_eq!(names(model).len(), 2);
    let (code, _, stderr) = run(model, &["model", "pack", "--plan", "small"]);
    assert_eq!(code, Some(74), "{stderr}");

    std::fs::remove_dir(&packed).unwrap();
    let (code, stdout, _) = run(model, &["model", "pack", "--plan", "small"]);
    assert_eq!((code, stdout), (Some(0), format!("the weights are packed in {}\n", packed.display())));
}

#[test]
fn a_kernel_that_does_not_exist_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) = run(folder.path(), &["doctor", "--kernel", "avx1024"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("[possible values: auto, avx512, avx2, portable, candle]"), "{stderr}");
}

/// A server that breaks off: each connection gets at most `piece` bytes of the range that it requests. Returns its URL and the
/// starts of the requested ranges.
fn serve(file: Vec<u8>, piece: usize, ranges: bool) -> (String, Arc<Mutex<Vec<usize>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/weights.h5", listener.local_addr().unwrap());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            answer(connection.unwrap(), &file, piece, ranges, &log);
        }
    });
    (url, asked)
}

fn answer(mut connection: TcpStream, file: &[u8], piece: usize, ranges: bool, log: &Mutex<Vec<usize>>) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if connection.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap().to_lowercase();
    let wanted = request.lines().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-')?.parse().ok());
    let start = wanted.filter(|_| ranges).unwrap_or(0);
    log.lock().unwrap().push(wanted.unwrap_or(0));
    let rest = &file[start..];
    let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
    let range = format!("content-range: bytes {start}-{}/{}\r\n", file.len() - 1, file.len());
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{range}connection: close\r\n\r\n", rest.len());
    // The client may have left already.
    let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(&rest[..piece.min(rest.len())]));
}

#[test]
fn a_broken_download_resumes_and_other_files_are_removed() {
    for ranges in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let (url, asked) = serve(vec![7; 100_000], 60_000, ranges);
        let fetch = || run(folder.path(), &["model", "fetch", "--url", &url]);
        let (code, _, stderr) = fetch();
        assert_eq!(code, Some(69), "{stderr}");
        assert!(stderr.contains("after 60000 bytes; run it again to resume"), "{stderr}");
        assert_eq!(names(folder.path()), ["6d6bbae143d832006294945121d1f1fc.download"]);
        let (code, _, stderr) = fetch();
        assert_eq!(code, Some(69));
        assert_eq!(*asked.lock().unwrap(), [0, 60_000]);
        if ranges {
            // The file is complete, but not the one of the manifest.
            assert!(stderr.contains("but 6d6bbae143d832006294945121d1f1fc was expected"), "{stderr}");
            assert!(names(folder.path()).is_empty());
        } else {
            assert!(stderr.contains("after 60000 bytes"), "{stderr}");
        }
    }
}

#[test]
fn a_fetch_that_cannot_connect_names_the_alternative() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) = run(folder.path(), &["model", "fetch", "--url", "http://127.0.0.1:9/weights.h5"]);
    assert_eq!(code, Some(69));
    assert!(stderr.contains("http://127.0.0.1:9/weights.h5: ") && stderr.contains("models/fetch.sh"), "{stderr}");
    assert!(names(folder.path()).is_empty());
}
