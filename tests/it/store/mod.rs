//! Both stores, each by itself, and that they find the same.

mod elasticsearch;
mod embedded;
mod score_agreement;
