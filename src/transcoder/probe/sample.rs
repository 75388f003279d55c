//! The source that tests start from: ten seconds of 1080p H.264 at 25 frames per second, with AAC.

use super::{Audio, Matrix, Transfer, Video};

impl Video {
    pub(crate) fn sample() -> Self {
        Self {
            index: 0,
            codec: "h264".into(),
            width: 1920,
            height: 1080,
            sar: (1, 1),
            rotation: 0,
            transfer: Transfer::Sdr,
            matrix: Matrix::Bt709,
            has_primaries: true,
            interlaced: false,
            frame_rate: 25.0,
            base_rate: 25.0,
            start: 0.0,
            frames: None,
            duration: Some(10.0),
            plain: None,
        }
    }
}

impl Audio {
    pub(crate) fn sample() -> Self {
        Self {
            index: 1,
            codec: "aac".into(),
            channels: 2,
            sample_rate: 48_000,
            duration: Some(10.0),
            language: None,
            title: None,
            plain_bit_rate: None,
        }
    }
}
