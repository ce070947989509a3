//! What the tests, the fuzz targets and the benchmark programs use of the program, besides its command line. Everything else is
//! private, so that the compiler finds code that nothing uses.

pub use crate::clock::now_ms;
pub use crate::distance::Mode;
pub use crate::embedding::Embedding;
pub use crate::health::Condition;
pub use crate::metrics::Metrics;
pub use crate::outcome::{Outcome, Reason, Verdict};
pub use crate::pipeline::Failure;

pub mod broker {
    pub use crate::broker::consumer::Consumer;
    pub use crate::broker::headers;
    pub use crate::broker::publish::{Publisher, Refused};
    pub use crate::broker::receipt::{Cause, Receipt};
    pub use crate::broker::topology::Topology;
    pub use crate::broker::{Error, Settings};
}

pub mod decode {
    pub use crate::decode::formats::decode;
    pub use crate::decode::pixels::Pixels;
    pub use crate::decode::preprocess::{Preprocess, Sampling};
    pub use crate::decode::raster::{Limits, Raster, Samples};
    #[cfg(target_os = "linux")]
    pub use crate::decode::sandbox::wire::Attempt;
    pub use crate::decode::{Decoder, Error, Isolation, Settings, memory};
}

pub mod fetch {
    pub use crate::fetch::access::address::special;
    pub use crate::fetch::access::guard::Guard;
    pub use crate::fetch::{Error, Fetcher, NoAnswer, Refusal, Settings, Timeouts};
}

pub mod footprint {
    pub use crate::footprint::{Bound, Settings};
}

pub mod indexer {
    pub use crate::indexer::{Error, Indexer, Settings};
}

pub mod message {
    pub use crate::message::*;
}

pub mod model {
    pub use crate::model::Model;
    pub use crate::model::compute::{Compute, KernelChoice, PlanChoice};
    pub use crate::model::load::load_vgg16;
    pub use crate::model::manifest::Manifest;
    pub use crate::model::vgg16::{Maps, Vgg16};
}

pub mod store {
    pub use crate::store::elasticsearch::{bulk, mapping};
    pub use crate::store::{
        Blocked, Document, Error, ErrorKind, Query, Revision, Settings, Store, StoreMeta, Stored, Target, Tombstone,
        Write, WriteOutcome,
    };
}
