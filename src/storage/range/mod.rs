//! Reads an input by byte ranges, so that FFmpeg encodes a stretch of a video without downloading the whole file.
//!
//! A [`RangeSource`] is one version of an input: an object ([`Storage::open_ranges`](super::Storage::open_ranges)) or
//! the file at an address ([`Fetcher::open_ranges`](super::fetch::Fetcher::open_ranges)). A [`RangeServer`] offers it
//! to FFmpeg on this machine over HTTP.
//!
//! FFmpeg requests everything from a position to the end, reads as much as it needs, and closes the connection when it
//! seeks. What the server requests must therefore not depend on what FFmpeg requests, but on what it reads: windows
//! that grow while a connection reads on (`window`), in blocks that all connections share (`blocks`).

mod blocks;
mod object;
mod reader;
mod server;
mod source;
mod web;
mod window;

pub use reader::RangeCounts;
pub use server::RangeServer;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use server::check_range_request;
pub use source::{RangeBody, RangeSource, RangeSupport};
