//! What an input may have at most.

/// The limits for inputs, besides their size. A job whose input is beyond one of them fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputLimits {
    /// Its duration in seconds.
    pub seconds: f64,
    /// The number of pixels of a picture, as stored and as displayed.
    pub pixels: u64,
    /// The number of streams.
    pub streams: usize,
}

impl Default for InputLimits {
    /// A day, 8192x8192 pixels, 64 streams.
    fn default() -> Self {
        Self { seconds: 86_400.0, pixels: 8192 * 8192, streams: 64 }
    }
}
