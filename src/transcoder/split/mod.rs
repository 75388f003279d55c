//! Encodes one video in parts on several workers: chunks of the picture, and the sound as a whole. What is known about
//! the queue and about storage is the worker's business.
//!
//! | part | what lives there |
//! |---|---|
//! | `chunks` | cuts a video into chunks of whole segments (pure) |
//! | `plan` | decides whether a video is split; the plan that all workers share (pure) |
//! | `arguments` | FFmpeg's arguments for the parts (pure) |
//! | `playing` | playlists for viewers while the parts are encoded (pure) |
//! | `report` | what was encoded, and whether the parts make a whole (pure) |
//! | `request` | what the parts are made from, and within which limits |
//! | `encode` | encodes one chunk, or the sound |
//! | `fragments` | cuts a file into segments |
//! | `hand_over` | hands over the sound while it is encoded |
//! | `join` | joins the segments of a rendition to a file |
//! | `finish` | makes the renditions out of the parts |
//!
//! A chunk begins with the first frame at or after a time `A`, and ends before the first frame at or after the time
//! that the next chunk begins with. All workers compare the times of the same frames with the same numbers, so that
//! each frame is in exactly one chunk, without an index of all frames. FFmpeg seeks to a keyframe half a second or more
//! before `A`, and a filter drops the frames up to it.
//!
//! All parts keep the times of the source, counted from the start of the container as in an encode of the whole, plus
//! one constant, because a fragment cannot be decoded at a negative time. There are no edit lists. Thus the segments of
//! all chunks share one initialization section, and picture and sound are in sync in players that ignore edit lists.

mod arguments;
mod chunks;
mod encode;
mod finish;
mod fragments;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
mod hand_over;
mod join;
mod plan;
mod playing;
mod preview;
mod report;
mod request;

pub use chunks::ChunkPlan;
pub use encode::{encode_audio, encode_chunk};
pub use finish::finish;
pub use plan::{SplitDecision, SplitPlan, decide};
pub use playing::playing_documents;
pub use preview::{encode_sound_around, sound_played_with};
pub use report::{AudioReport, AudioTrackReport, ChunkReport, RungReport};
pub use request::{FinishRequest, PartFiles, PartRequest, SegmentSink};
