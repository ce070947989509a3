//! The values of labels.

use strum::{IntoStaticStr, VariantArray};

/// Declares the values of a label. Each string is the variant's name in `snake_case` and is written only here.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
        #[strum(serialize_all = "snake_case")]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }
    };
}

label! {
    /// A stage of the pipeline that is timed.
    Stage {
        /// URL to bytes.
        Fetch,
        /// Bytes to pixels.
        Decode,
        /// Pixels to features.
        Extract,
        /// Document to durable.
        Index,
        /// All of them.
        Total,
    }
}

label! {
    /// How a delivery ended.
    Settled {
        /// Its document is durable.
        Indexed,
        /// Its document is deleted.
        Deleted,
        /// A newer version was there, or a deletion at this one.
        Stale,
        /// A deletion; a newer version or this same deletion was there.
        StaleDeletion,
        /// Dead-lettered.
        Dead,
        /// Published to a retry queue.
        Retried,
        /// Requeued, or lost with its session and redelivered by the broker.
        Returned,
    }
}

label! {
    /// Why an attempt is made again.
    RetryCause {
        /// The image host failed or refused; by a retry queue.
        Host,
        /// The host or this worker is busy; by a retry queue, with no attempt counted.
        Busy,
        /// The store did not take a batch or an item; in the process.
        Store,
        /// The store failed on the document while it took others; by a retry queue.
        StoreFailed,
        /// Moved to the quarantine.
        Suspect,
        /// Processing panicked.
        Panic,
        FetchResolve,
        FetchConnect,
        FetchBroken,
        FetchStatus,
    }
}

label! {
    /// Why consumption pauses.
    PauseCause {
        /// There is no session with the broker.
        Broker,
        /// A queue is missing or refuses messages.
        Queues,
        /// Nearly all of the last fetches reached no host.
        Network,
        IndexMissing,
        /// The store was made for another model or mapping.
        Mismatch,
        WriteBlock,
        Unauthorized,
        /// The store refuses nearly all documents.
        Refusals,
        /// The store does not respond.
        Unavailable,
    }
}

label! {
    /// Why a session with the broker ended.
    SessionEnd {
        /// There was no connection.
        Connect,
        /// The exchange and queues could not be declared.
        Topology,
        /// The connection or a channel was lost.
        Lost,
        /// The broker cancelled the consumer.
        Cancelled,
        /// An acknowledgement did not reach the broker.
        Ack,
        /// A retry or dead letter was not confirmed.
        Publish,
        /// The process is stopping.
        Stopped,
    }
}

label! {
    /// How a bulk request ended as a whole.
    BulkStatus {
        /// Every item has its own outcome.
        Ok,
        TooLarge,
        Refused,
        Blocked,
        /// No usable response.
        Failed,
    }
}

label! {
    /// How one item of a bulk request ended.
    BulkItem {
        /// Durable.
        Indexed,
        Deleted,
        /// A newer version was there, or a deletion at this one.
        Stale,
        /// A deletion; a newer version or this same deletion was there.
        StaleDeletion,
        /// Refused for its content.
        Rejected,
        /// The store was busy; sent again.
        Busy,
        /// The store takes no writes.
        Blocked,
        /// Not taken within the time for retries.
        GivenUp,
    }
}
