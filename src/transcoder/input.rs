//! Where FFmpeg and ffprobe read a video from.

use std::ffi::OsString;
use std::path::Path;

use url::Url;

/// A video that FFmpeg and ffprobe read.
#[derive(Clone, Copy, Debug)]
pub enum MediaInput<'a> {
    /// A local file, or a folder of files.
    File(&'a Path),
    /// An HTTP server of this process on the loopback interface, which answers requests for ranges.
    Loopback(&'a Url),
}

impl MediaInput<'_> {
    /// The protocols that FFmpeg may use to read it, for `-protocol_whitelist`.
    pub(super) fn protocols(self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Loopback(_) => "http,tcp",
        }
    }

    /// Options of the protocol.
    pub(super) fn options(self) -> &'static [&'static str] {
        match self {
            Self::File(_) => &[],
            // The server retries by itself. A minute without a byte, in microseconds, means that it hangs.
            Self::Loopback(_) => &["-seekable", "1", "-rw_timeout", "60000000"],
        }
    }

    /// The argument of `-i`. With the prefix `file:`, no name of a file is taken for an option or a protocol.
    pub(super) fn argument(self) -> OsString {
        match self {
            Self::File(path) => {
                let mut url = OsString::from("file:");
                url.push(path);
                url
            }
            Self::Loopback(url) => url.as_str().into(),
        }
    }

    /// The text that names it in FFmpeg's messages, which users must not see.
    pub(super) fn name(self) -> String {
        match self {
            Self::File(path) => path.to_string_lossy().into_owned(),
            Self::Loopback(url) => url.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_never_an_option_or_a_protocol() {
        assert_eq!(MediaInput::File(Path::new("-i")).argument(), "file:-i");
        assert_eq!(MediaInput::File(Path::new("http://x")).argument(), "file:http://x");
        assert_eq!(MediaInput::File(Path::new("http://x")).protocols(), "file");
    }

    #[test]
    fn a_server_is_read_by_http_alone() {
        let url: Url = "http://127.0.0.1:80/a".parse().unwrap();
        assert_eq!(MediaInput::Loopback(&url).argument(), "http://127.0.0.1/a");
        assert_eq!(MediaInput::Loopback(&url).protocols(), "http,tcp");
    }
}
