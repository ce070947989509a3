//! Old letters that are replayed in the middle of the run, each of an image that was deleted or replaced since.
//!
//! The test takes all letters out of their queue, as an operator would who sorts them, and puts old ones back to be replayed.
//! Not with `dlq replay --id`, which keeps the other letters: RabbitMQ 3.10 forgets some messages of a quorum queue when it
//! restarts after a client has acknowledged one message and given back those around it.

use std::cell::RefCell;
use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;
use lapin::message::Delivery;
use serde_json::json;
use tokio::time::{sleep_until, timeout};

use super::faults::Log;
use super::sender::{ANSWER, Message, Sender};
use crate::support::accounting::{Ledger, TIMEOUT};
use crate::support::flow::Flow;
use crate::support::poll;
use crate::support::process::run;
use crate::support::rabbit::{Client, body};

/// Milliseconds between two rounds: time enough for Elasticsearch to forget deletions of its own.
const PAUSE: Range<u64> = 3_000..8_000;
/// New images in each round.
const IMAGES: usize = 2;
/// The reason of the letters: their host has no image until it is mended.
const REASON: &str = "host_refused";

/// All old letters, and what replays them.
pub struct Replays<'a> {
    flow: &'a Flow,
    ledger: &'a RefCell<Ledger>,
    rng: Rng,
    sender: Sender<'a>,
    client: Option<Client>,
    old: Vec<Old>,
    /// How often letters were replayed, those of other messages included.
    replayed: u64,
    /// What failed the last time.
    failed: String,
}

/// An image whose first version becomes a dead letter.
struct Old {
    id: String,
    url: String,
    /// The first version.
    body: String,
    letter: Option<Delivery>,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// There is no letter yet.
    Published,
    /// There was a letter when a deletion or a newer version was published.
    Outdated,
    /// The letter was put back to be replayed, and a worker has fetched the image, which it could not do before.
    Replayed,
}

impl<'a> Replays<'a> {
    pub fn new(flow: &'a Flow, ledger: &'a RefCell<Ledger>, rng: Rng) -> Self {
        let (sender, failed) = (Sender::new(flow), String::new());
        Self { flow, ledger, rng, sender, client: None, old: Vec::new(), replayed: 0, failed }
    }

    /// Publishes images and replays letters until faults end.
    pub async fn run(&mut self, log: &Log) {
        while let Some(at) = log.after(Duration::from_millis(self.rng.u64(PAUSE))) {
            sleep_until(at).await;
            for _ in 0..IMAGES {
                self.publish().await;
            }
            self.round().await;
        }
    }

    /// Replays the letters that are left. Returns how many images there were, and how many letters were replayed.
    pub async fn finish(mut self) -> (usize, u64) {
        poll::until_within("every old letter is replayed", TIMEOUT, async || {
            self.round().await;
            let left: Vec<_> = self.old.iter().filter(|old| old.progress != Progress::Replayed).collect();
            let shown = || left.iter().map(|old| format!("{} is {:?}", old.id, old.progress)).collect::<Vec<_>>();
            if left.is_empty() { Ok(()) } else { Err(format!("{}; {}", shown().join(", "), self.failed)) }
        })
        .await;
        self.sender.close().await;
        if let Some(client) = self.client {
            client.close().await;
        }
        (self.old.len(), self.replayed)
    }

    /// Publishes the first version of an image that its host does not have.
    async fn publish(&mut self) {
        let number = self.old.len();
        let (id, url) = (format!("old-{number}"), self.flow.images.url(&format!("/mended/{number}")));
        let body = json!({"id": id, "url": url, "version": 1}).to_string();
        self.ledger.borrow_mut().image(&id, 1, Some(&url));
        self.ledger.borrow_mut().replayed(&body, REASON);
        self.sender.send(&[Message { body: body.clone(), properties: None }]).await;
        self.old.push(Old { id, url, body, letter: None, progress: Progress::Published });
    }

    /// Takes every image one step further. Where the broker fails, the next round does what is left.
    async fn round(&mut self) {
        match timeout(ANSWER, self.sort()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return self.fail(error),
            Err(_) => return self.fail(format!("letters were not taken within {ANSWER:?}")),
        }
        let mut put_back = Vec::new();
        for number in 0..self.old.len() {
            let old = &mut self.old[number];
            match (old.progress, &old.letter) {
                (Progress::Published, Some(_)) => {
                    old.progress = Progress::Outdated;
                    self.outdate(number).await;
                }
                // A broker or worker that was killed may bring a letter back after its replay.
                (_, Some(_)) => {
                    self.flow.images.mend(&old.url);
                    put_back.push(number);
                }
                (Progress::Outdated, None) if self.flow.images.served_since_mended(&old.url) > 0 => {
                    old.progress = Progress::Replayed;
                }
                (_, None) => {}
            }
        }
        if !put_back.is_empty() {
            match timeout(ANSWER, self.put_back(&put_back)).await {
                Ok(Ok(())) => self.replay().await,
                Ok(Err(error)) => self.fail(error),
                Err(_) => self.fail(format!("letters were not put back within {ANSWER:?}")),
            }
        }
    }

    fn fail(&mut self, error: String) {
        self.client = None;
        self.failed = error;
    }

    async fn client(&mut self) -> Result<&Client, String> {
        if self.client.is_none() {
            self.client = Some(self.flow.rabbit.client().await.map_err(|error| error.to_string())?);
        }
        self.client.as_ref().ok_or_else(String::new)
    }

    /// Takes all letters out of their queue: old ones to be replayed, all others for good.
    async fn sort(&mut self) -> Result<(), String> {
        self.client().await?;
        let (Some(client), dead) = (&self.client, self.flow.rabbit.dead()) else { return Ok(()) };
        let taking = client.take(&dead, |letter| match self.old.iter_mut().find(|old| old.body == body(&letter)) {
            Some(old) => old.letter = Some(letter),
            None => self.ledger.borrow_mut().letter(&letter),
        });
        taking.await.map_err(|error| error.to_string())
    }

    /// Publishes what must stand against the replayed letter: a newer deletion, one of the same version, or a newer image.
    async fn outdate(&mut self, number: usize) {
        let id = &self.old[number].id;
        let (version, url) = match number % 3 {
            0 => (2, None),
            1 => (1, None),
            _ => (2, Some(self.flow.images.url(&format!("/good/old-{number}")))),
        };
        let body = match &url {
            Some(url) => json!({"id": id, "url": url, "version": version}),
            None => json!({"id": id, "op": "delete", "version": version}),
        };
        self.ledger.borrow_mut().image(id, version, url.as_deref());
        self.sender.send(&[Message { body: body.to_string(), properties: None }]).await;
    }

    /// Puts the letters of these images back into their queue.
    async fn put_back(&mut self, images: &[usize]) -> Result<(), String> {
        let letters: Vec<_> = images.iter().filter_map(|&number| self.old[number].letter.as_ref()).collect();
        let letters: Vec<_> = letters.iter().map(|letter| (letter.data.clone(), letter.properties.clone())).collect();
        let dead = self.flow.rabbit.dead();
        self.client().await?.publish(&dead, letters.into_iter()).await?;
        for &number in images {
            self.old[number].letter = None;
        }
        Ok(())
    }

    /// Replays all letters. What the command leaves undone because the broker ends is a letter in the next round.
    async fn replay(&mut self) {
        let command = ["dlq", "replay", "--all"].map(ToOwned::to_owned);
        let finished = run(&command.into_iter().chain(self.flow.rabbit.flags()).collect::<Vec<_>>(), "").await;
        match finished.code {
            Some(0) => {
                let count = finished.stdout.trim().strip_suffix(" replayed").unwrap();
                self.replayed += count.parse::<u64>().unwrap();
            }
            _ => self.failed = format!("{finished:?}"),
        }
    }
}
