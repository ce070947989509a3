#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::symlink;

use super::*;

/// A folder of the given files, all empty.
fn folder_of(names: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
    }
    folder
}

/// The names found, relative to a folder; failures as `name: reason`.
fn names(items: impl Iterator<Item = Item>, below: &Path) -> Vec<String> {
    let below = format!("{}/", below.display());
    items.map(|item| item.map_or_else(|failed| failed.to_string(), |s| s.name).replace(&below, "")).collect()
}

fn expanded(arguments: &[&OsStr], below: &Path) -> Vec<String> {
    names(expand(arguments.iter().map(Into::into).collect()), below)
}

fn from_text(text: &str, base: &Path) -> Vec<Item> {
    lines("list".to_owned(), Cursor::new(text.to_owned()), base.to_owned()).collect()
}

#[test]
fn a_folder_gives_its_images_in_order_without_hidden_and_other_files() {
    let folder = folder_of(&["b.JPG", "a/z.png", "a/.hidden.png", ".git/x.png", "notes.md", "c.jpeg", "p.heic"]);
    assert_eq!(expanded(&[folder.path().as_os_str()], folder.path()), ["a/z.png", "b.JPG", "c.jpeg", "p.heic"]);
    assert_eq!(count(vec![folder.path().into()]), Some(4));
}

#[test]
fn a_folder_of_no_images_is_a_failure_that_says_what_was_looked_for() {
    let folder = folder_of(&["notes.md"]);
    let found = expanded(&[folder.path().as_os_str()], folder.path());
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("no image files in this folder") && found[0].contains(".jpg"), "{found:?}");
}

#[test]
fn links_that_lead_back_end_and_dangling_ones_are_named() {
    let folder = folder_of(&["a/x.png"]);
    symlink(folder.path(), folder.path().join("a/up")).unwrap();
    symlink("nowhere.png", folder.path().join("gone.png")).unwrap();
    let found = expanded(&[folder.path().as_os_str()], folder.path());
    assert_eq!(found, ["a/x.png", "gone.png: No such file or directory (os error 2)"]);
}

#[test]
fn a_file_that_is_named_is_tried_whatever_it_is_called_and_a_missing_one_does_not_stop_the_others() {
    let folder = folder_of(&["photo", ".x.dat"]);
    let arguments = ["photo", "missing.png", ".x.dat"].map(|name| folder.path().join(name).into_os_string());
    let found = expanded(&arguments.each_ref().map(OsString::as_os_str), folder.path());
    assert_eq!(found, ["photo", "missing.png: No such file or directory (os error 2)", ".x.dat"]);
}

#[test]
fn a_list_skips_comments_and_blank_lines_and_takes_paths_relative_to_itself() {
    let folder = folder_of(&["in/a b.png", "in/sub/c.png"]);
    let text = "\u{feff}# photographs\r\n\r\na b.png\r\n  sub\nhttps://h/x.png\n{\"url\":\"http://h/y\",\"id\":\"7\"}\nother.txt\n{]";
    fs::write(folder.path().join("in/list.txt"), text).unwrap();
    let items: Vec<Item> = expand(vec![folder.path().join("in/list.txt").into()]).collect();
    let found = names(items.iter().cloned(), folder.path());
    assert_eq!(found[..4], ["a b.png", "sub/c.png", "https://h/x.png", "http://h/y"]);
    assert_eq!(found[4], "other.txt: a list cannot name another list");
    assert!(found[5].starts_with("{]: the body is not a valid reference"), "{}", found[5]);
    let first = items[0].as_ref().unwrap().url.as_ref().unwrap().to_file_path().unwrap();
    assert_eq!(first, folder.path().join("in/a b.png"));
    assert_eq!(items[3].as_ref().unwrap().reference.id.as_deref(), Some("7"));
    assert_eq!(found.len(), 6);
}

#[test]
fn lines_that_are_too_long_or_not_text_are_named_and_the_rest_is_read() {
    let mut bytes = vec![b'a'; 3 << 20];
    bytes.extend(b"\n\xff\xfe\nhttp://h/last");
    let found: Vec<_> = lines("list".to_owned(), Cursor::new(bytes), PathBuf::new()).collect();
    let reasons = found.iter().map(|item| item.as_ref().map_or_else(ToString::to_string, |s| s.name.clone()));
    assert_eq!(
        reasons.collect::<Vec<_>>(),
        ["list, line 1: the line is longer than 1 MiB", "list, line 2: the line is not UTF-8 text", "http://h/last"]
    );
}

#[test]
fn lines_are_handed_on_as_they_arrive() {
    /// Gives one line, and fails the test when asked for more.
    struct OneLine(bool);
    impl Read for OneLine {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            assert!(!std::mem::replace(&mut self.0, true), "read ahead of its use");
            buffer[..11].copy_from_slice(b"http://h/1\n");
            Ok(11)
        }
    }
    let mut items = lines("list".to_owned(), BufReader::new(OneLine(false)), PathBuf::new());
    assert_eq!(items.next().unwrap().unwrap().name, "http://h/1");
}

#[test]
fn spellings_of_one_path_are_one_document() {
    let folder = folder_of(&["a/x.png", "b/x.png"]);
    symlink(folder.path().join("b"), folder.path().join("a/link")).unwrap();
    let url = |path: &str| {
        let mut items = one(folder.path().join(path).as_os_str(), Path::new(""));
        items.next().unwrap().unwrap().reference.url.unwrap()
    };
    assert_eq!(url("a/x.png"), url("a/./x.png"));
    assert_eq!(url("a/x.png"), url("b/../a/x.png"));
    // The folder above a link is the one above its target.
    assert_eq!(url("a/link/../a/x.png"), url("a/x.png"));
    assert_ne!(url("a/link/x.png"), url("b/x.png"));
}

#[test]
fn bad_references_are_refused_before_any_stage_sees_them() {
    for (text, reason) in [
        ("http://", "invalid url"),
        ("{\"op\":\"upsert\"}", "needs a url"),
        ("{\"url\":\"http://h/\",\"op\":\"paint\"}", "unknown op"),
        ("{\"url\":\"relative.png\"}", "invalid url"),
    ] {
        let items = from_text(text, Path::new(""));
        let failed = items[0].as_ref().unwrap_err();
        assert!(failed.reason.contains(reason), "{text}: {failed}");
    }
    for text in ["{\"id\":\"7\",\"op\":\"delete\"}", "{\"id\":\"7\"}"] {
        assert!(from_text(text, Path::new(""))[0].as_ref().unwrap().url.is_none());
    }
}

#[test]
fn urls_are_told_from_paths() {
    for text in ["http://h/x", "HTTPS://h", "s3://bucket/x", "file:///x", "file:/x"] {
        assert!(has_scheme(text), "{text}");
    }
    for text in ["x.png", "a/b://c", "C:x", "://", "1x://", "dir/http://h", "fil"] {
        assert!(!has_scheme(text), "{text}");
    }
    // A list of the web is an image address like any other.
    assert!(!is_list(Path::new("http://h/list.txt")));
}

#[test]
fn standard_input_cannot_be_counted() {
    assert_eq!(count(vec!["-".into()]), None);
}
