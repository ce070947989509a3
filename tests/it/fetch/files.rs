//! Local files: only where allowed, only regular ones, with the limit of bodies.

use std::path::Path;

use imgdex::testing::fetch::{Error, Refusal, Settings};
use url::Url;

use super::Subject;

fn url(path: &Path) -> Url {
    Url::from_file_path(path).unwrap()
}

fn reader() -> Subject {
    Subject::new(Settings { local_files: true, max_bytes: 1000, ..Settings::default() })
}

#[tokio::test]
async fn a_file_is_read_only_where_that_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a b%c.png");
    std::fs::write(&path, [7; 1000]).unwrap();
    let subject = reader();
    let bytes = subject.get(&url(&path)).await.unwrap();
    assert_eq!((bytes.len(), subject.metric("inflight_bytes")), (1000, 1000));
    drop(bytes);
    assert_eq!(subject.metric("inflight_bytes"), 0);
    let error = Subject::new(Settings::default()).error(&url(&path)).await;
    assert!(matches!(error, Error::Refused(Refusal::LocalFile)), "{error:?}");
}

#[tokio::test]
async fn a_file_above_the_limit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.png");
    std::fs::write(&path, [7; 1001]).unwrap();
    let error = reader().error(&url(&path)).await;
    assert!(matches!(error, Error::TooLarge { limit: 1000 }), "{error:?}");
}

#[tokio::test]
async fn what_is_no_regular_file_is_named_and_refused() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo.png");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let missing = folder.path().join("missing.png");
    for path in [folder.path(), &fifo, &missing, Path::new("/dev/zero")] {
        let error = reader().error(&url(path)).await;
        assert!(matches!(error, Error::File { .. }), "{}: {error:?}", path.display());
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
    let error = reader().error(&Url::parse("file://elsewhere/share/a.png").unwrap()).await;
    assert!(matches!(error, Error::File { .. }), "{error:?}");
}
