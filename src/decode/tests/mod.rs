#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod hostile;
mod jpeg;

use std::sync::mpsc;

use futures_util::FutureExt;

use super::*;
use crate::decode::preprocess::Preprocess;

fn stage(permits: usize, timeout: Duration) -> Decoder {
    stage_with(Settings { max_pixels: 1_000_000, allow_tiff: false, permits, timeout })
}

fn stage_with(settings: Settings) -> Decoder {
    Decoder::new(settings, Sampling { preprocess: Preprocess::Imgdex2, size: 224 })
}

const LONG: Duration = Duration::from_mins(1);

#[tokio::test]
async fn an_image_comes_out_sampled_with_its_size_and_format() {
    let bytes = hostile::fixture("3000x50.png");
    let picture = stage(1, LONG).decode(bytes.into()).await.unwrap();
    assert_eq!(picture.size, Size { width: 3000, height: 50 });
    assert_eq!(picture.format, Format::Png);
    assert_eq!((picture.pixels.size(), picture.pixels.as_rgb().len()), (224, 224 * 224 * 3));
}

#[tokio::test]
async fn a_panic_is_contained_and_gives_its_permit_back() {
    let stage = stage(1, LONG);
    for _ in 0..3 {
        let result: Result<(), Error> = stage.contained(|| panic!("sample {} is out of bounds", 7)).await;
        let Err(Error::Panicked { reason }) = result else { panic!("not contained") };
        assert_eq!(reason, "sample 7 is out of bounds");
    }
    assert_eq!(stage.contained(|| Ok(1)).await.unwrap(), 1);
}

#[tokio::test]
async fn an_overrunning_thread_keeps_its_permit_until_it_ends() {
    let stage = stage(1, Duration::from_millis(20));
    let (release, stuck) = mpsc::channel::<()>();
    let result = stage.contained(move || Ok(stuck.recv().is_ok())).await;
    assert!(matches!(result, Err(Error::Timeout { .. })), "{result:?}");
    // The caller has its result, the thread still runs, and no other may start.
    assert_eq!(stage.permits.available_permits(), 0);
    let next = timeout(Duration::from_millis(50), stage.contained(|| Ok(()))).await;
    assert!(next.is_err(), "another started while one overran");

    release.send(()).unwrap();
    timeout(LONG, stage.contained(|| Ok(()))).await.expect("the permit never came back").unwrap();
}

#[tokio::test]
async fn large_images_share_the_memory_of_one_and_small_ones_need_not_wait() {
    let stage = stage_with(Settings { max_pixels: 100_000_000, ..stage(8, LONG).settings });
    let half = stage.room(50_000_000).await.unwrap();
    let other = stage.room(49_000_000).await.unwrap();
    assert!(stage.room(SMALL + 1).now_or_never().is_none(), "a third one beside them");
    assert!(stage.room(SMALL).now_or_never().is_some());
    drop((half, other));
    let _largest = stage.room(100_000_000).await.unwrap();
    // An image too large to be counted is never decoded beside another.
    let unlimited = stage_with(Settings { max_pixels: u64::MAX, ..stage.settings.clone() });
    let _any = unlimited.room(1 << 60).await.unwrap();
    assert!(unlimited.room(1 << 60).now_or_never().is_none());
}
