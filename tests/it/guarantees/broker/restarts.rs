//! Guarantee 10: the same process survives restarts of the broker, loses no message and leaks no resource.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

use super::{FEW_AT_A_TIME, PREFETCH, in_flight};
use crate::support::elasticsearch;
use crate::support::flow::Flow;
use crate::support::poll;
use crate::support::process::Worker;
use crate::support::proxy::{Handling, Proxy};
use crate::support::report::{report, scaled};
use crate::support::service::Service;
use crate::support::usage::Usage;

/// Images in each round: more than may be in flight at once. The store holds its requests, so that these stay in flight.
const IMAGES: usize = PREFETCH + 9;
/// Differences that are no leak: idle connections to Elasticsearch, threads for look-ups, memory of the allocator.
const NOISE: Usage = Usage { descriptors: 6, threads: 6, connections: 0, memory: 16 };

/// Waits until the broker answers the protocol header with its first method.
async fn until_answering(broker: &Url) -> Instant {
    const METHOD_FRAME: u8 = 1;
    let address = (broker.host_str().unwrap(), broker.port().unwrap());
    poll::until("the broker answers", async || {
        let asking = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"AMQP\0\0\x09\x01").await?;
            stream.read_u8().await
        };
        match asking.await {
            Ok(METHOD_FRAME) => Ok(Instant::now()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

/// Waits until more messages are delivered.
async fn until_delivered(worker: &Worker, before: u64) -> Instant {
    poll::until("the worker consumes", async || {
        let received = worker.scrape().await.value("messages_received_total", &[]);
        if received > before { Ok(Instant::now()) } else { Err(format!("{received} received")) }
    })
    .await
}

/// Restarts the broker under a busy worker. Returns the time from its first answer to the first delivery.
async fn restart(service: &Service, flow: &mut Flow, store: &Proxy, worker: &Worker, round: usize) -> Duration {
    let urls: Vec<_> = (0..=IMAGES).map(|number| flow.images.url(&format!("/good/{}", round * 100 + number))).collect();
    let (fresh, urls) = urls.split_last().unwrap();
    store.handle_bulks(Handling::HoldRequest);
    flow.publish(urls, &[]).await;
    worker.until("messages in flight", PREFETCH as u64, in_flight).await;

    if round.is_multiple_of(2) {
        service.stop().await;
    } else {
        service.kill();
    }
    let before = worker.scrape().await.value("messages_received_total", &[]);
    let broker = Url::parse(&flow.rabbit.url).unwrap();
    let (answered, consumed, ()) =
        tokio::join!(until_answering(&broker), until_delivered(worker, before), service.start());
    flow.rabbit.reconnect().await;
    flow.rabbit.publish(fresh).await;

    // As many as the prefetch allows. A broker that was killed may have forgotten acknowledgements of the round before, and
    // redeliver these messages.
    worker.until("messages in flight", PREFETCH as u64, in_flight).await;
    let least = (IMAGES + 1 - PREFETCH) as u32;
    poll::until("the others wait", async || {
        let ready = flow.rabbit.ready(&flow.rabbit.queue).await;
        if ready >= least { Ok(()) } else { Err(format!("{ready} wait, not {least}")) }
    })
    .await;
    assert_eq!(in_flight(&worker.scrape().await), PREFETCH as u64);
    store.handle_bulks(Handling::Forward);
    store.release().await;
    flow.until_documents(((round + 1) * (IMAGES + 1)) as u64).await;
    worker.until("messages in flight", 0, in_flight).await;
    consumed.saturating_duration_since(answered)
}

#[tokio::test]
async fn the_same_process_survives_restarts_of_the_broker() {
    let service = Service::rabbitmq().await;
    let mut flow = Flow::at(&service.url(), elasticsearch::url()).await;
    flow.create_index("stub").await;
    let store = Proxy::start(elasticsearch::url());
    flow.store = store.store(&flow.alias.name);
    let mut worker = flow.worker_with(&FEW_AT_A_TIME).await;
    worker.until_ready().await;

    let rounds = scaled(2, 50);
    let mut outages = vec![restart(&service, &mut flow, &store, &worker, 0).await];
    let before = Usage::of(worker.pid());
    for round in 1..rounds {
        outages.push(restart(&service, &mut flow, &store, &worker, round).await);
    }
    let after = Usage::of(worker.pid());
    outages.sort();
    let (median, worst) = (outages[rounds / 2], outages[rounds - 1]);
    report(
        10,
        format!(
            "{rounds} restarts, half of them by SIGKILL: consuming {median:.1?} (median) and {worst:.1?} (worst) after the \
             broker's first answer; {} documents, none lost; {before} after the first, {after} after the last",
            rounds * (IMAGES + 1)
        ),
    );
    assert!(after.is_within(&before, &NOISE), "{before} became {after}");

    worker.until("messages in flight", 0, in_flight).await;
    assert_eq!(worker.scrape().await.outcome("dead"), 0);
    assert_eq!(worker.terminate().await, Some(0));
    flow.assert_all_queues_empty().await;
}
