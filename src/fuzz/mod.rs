//! Every parser of what others send, as a function of bytes that panics if the parser does not keep what it promises: that
//! it ends, that values are within limits, that what is printed is parsed to the same value. The fuzzers in `fuzz/` and a
//! test run the same list. No part of the library proper.

#[cfg(test)]
mod mutate;
#[cfg(test)]
mod tests;

use std::fmt::{Debug, Display};
use std::str::FromStr;

use url::{Host, Url};

use crate::config::{
    ApiConfig, BaseUrl, Env, FlyConfig, RedisConfig, Retention, StorageConfig, WorkerConfig,
};
use crate::job::{AttemptId, Epoch, JobId, Label, Ladder, LeaseId, Parallelism, Part, Preset, Quality};
use crate::net::{self, EgressPolicy};
use crate::queue::Cleanup;
use crate::trace::TraceParent;
use crate::{api, cli, controller, flyprovider, manifest, queue, storage, transcoder};

/// A parser, and what it promises.
#[derive(Clone, Copy)]
pub struct Parser {
    /// Its name, which is also that of the folder with its samples in `fuzz/corpus`.
    pub name: &'static str,
    /// Parses the bytes.
    ///
    /// # Panics
    /// If a promise is broken.
    pub check: fn(&[u8]),
}

/// All parsers of what others send.
pub const PARSERS: &[Parser] = &[
    // Clients of the API.
    Parser { name: "api_request", check: api::fuzz::request },
    Parser { name: "api_headers", check: api::fuzz::headers },
    Parser { name: "address", check: address },
    Parser { name: "identifier", check: identifier },
    Parser { name: "object_key", check: storage::fuzz::object_key },
    Parser { name: "media_token", check: storage::fuzz::media_token },
    Parser { name: "traceparent", check: traceparent },
    // Storage, and servers of inputs.
    Parser { name: "object_event", check: storage::fuzz::object_event },
    Parser { name: "content_range", check: storage::fuzz::content_range },
    Parser { name: "manifest", check: manifest::fuzz },
    Parser { name: "multipart_answer", check: cli::fuzz::multipart_answer },
    // Redis.
    Parser { name: "redis_reply", check: queue::fuzz::reply },
    Parser { name: "redis_rest_answer", check: queue::fuzz::rest_answer },
    Parser { name: "redis_job_record", check: queue::fuzz::job_record },
    Parser { name: "split_plan", check: transcoder::fuzz::split_plan },
    // Fly.
    Parser { name: "fly_machines", check: flyprovider::fuzz::machines },
    Parser { name: "fly_refusal", check: flyprovider::fuzz::refusal },
    // Kubernetes, and the settings.
    Parser { name: "transcode_job", check: controller::fuzz::transcode_job },
    Parser { name: "worker_pool", check: controller::fuzz::worker_pool },
    Parser { name: "settings", check: settings },
    // FFmpeg and ffprobe, which a video may have taken over.
    Parser { name: "ffprobe_report", check: transcoder::fuzz::ffprobe_report },
    Parser { name: "ffprobe_packets", check: transcoder::fuzz::ffprobe_packets },
    Parser { name: "ffmpeg_progress", check: transcoder::fuzz::ffmpeg_progress },
    Parser { name: "ffmpeg_log", check: transcoder::fuzz::ffmpeg_log },
    Parser { name: "range_request", check: storage::fuzz::range_request },
    Parser { name: "playlist", check: transcoder::fuzz::playlist },
    Parser { name: "dash_manifest", check: transcoder::fuzz::dash_manifest },
    Parser { name: "mp4_init", check: transcoder::fuzz::mp4_init },
    Parser { name: "mp4_fragments", check: transcoder::fuzz::mp4_fragments },
    Parser { name: "language", check: transcoder::fuzz::language },
];

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Checks that a value that is printed is parsed to the same value.
fn round_trip<T: FromStr + Display + Debug + PartialEq>(text: &str)
where
    T::Err: Debug,
{
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>().ok().as_ref(), Some(&value), "{text:?}");
    }
}

fn identifier(bytes: &[u8]) {
    let text = text(bytes);
    round_trip::<JobId>(&text);
    round_trip::<AttemptId>(&text);
    round_trip::<LeaseId>(&text);
    round_trip::<Part>(&text);
    round_trip::<Epoch>(&text);
    round_trip::<Parallelism>(&text);
    round_trip::<Preset>(&text);
    round_trip::<Quality>(&text);
    round_trip::<Label>(&text);
    round_trip::<Cleanup>(&text);
    // These have one spelling each, so that no two of them mean the same.
    let spellings = [
        text.parse::<AttemptId>().map(|id| id.to_string()).ok(),
        text.parse::<Part>().map(|part| part.to_string()).ok(),
        text.parse::<Epoch>().map(|epoch| epoch.to_string()).ok(),
    ];
    for spelling in spellings.into_iter().flatten() {
        assert!(spelling.eq_ignore_ascii_case(&text), "{text:?} is also {spelling:?}");
    }
    if let Ok(ladder) = text.parse::<Ladder>() {
        assert!(ladder.rungs().is_sorted_by(|a, b| a > b), "{text:?}");
    }
}

fn traceparent(bytes: &[u8]) {
    let text = text(bytes);
    if let Some(parsed) = TraceParent::parse(&text) {
        assert_eq!(parsed.as_str(), text);
        assert!(text.len() == 55 && text.is_ascii(), "{text:?}");
    }
}

fn address(bytes: &[u8]) {
    let text = text(bytes);
    if let Ok(base) = text.parse::<BaseUrl>() {
        assert!(base.as_str().ends_with('/') && !base.as_str().contains(['?', '#']), "{text:?}");
        assert_eq!(base.as_str().parse::<BaseUrl>().as_ref(), Ok(&base), "{text:?}");
        let below = base.below(["a b", &text, ".."]);
        assert!(below.as_str().starts_with(base.as_str()), "{base} contains {below}");
        assert_eq!((below.query(), below.fragment()), (None, None), "{below}");
    }
    let Ok(url) = text.parse::<Url>() else { return };
    if net::check_url(EgressPolicy::PublicOnly, &url).is_err() {
        return;
    }
    // What the standard library knows of addresses, as a second opinion.
    match url.host() {
        Some(Host::Ipv4(ip)) => {
            let inside = ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified();
            assert!(!inside && !ip.is_broadcast() && !ip.is_multicast(), "{url}");
        }
        Some(Host::Ipv6(ip)) => {
            let inside = ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local();
            assert!(!inside && !ip.is_unspecified() && !ip.is_multicast(), "{url}");
        }
        Some(Host::Domain(_)) => {}
        None => unreachable!("{url} has no host"),
    }
}

/// Lines such as `R2_ENDPOINT=https://…`. A value with the word `hush` is a secret, in whichever setting it stands: errors show no
/// values.
fn settings(bytes: &[u8]) {
    let text = text(bytes);
    let lines: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let value = |name: &str| {
        let line = lines.iter().rev().find(|(known, _)| *known == name);
        // These name files.
        line.filter(|(name, _)| !name.contains("CERT")).map(|(_, value)| (*value).to_owned())
    };
    let env = Env::of(value);
    let errors = [
        RedisConfig::read(&env).err(),
        StorageConfig::read(&env).err(),
        WorkerConfig::read(&env).err(),
        FlyConfig::read(&env).err(),
        ApiConfig::read(&env).err(),
        Retention::read(&env).err(),
        flyprovider::policy::read(&env).err(),
    ];
    for error in errors.into_iter().flatten() {
        let shown = error.to_string();
        assert!(!shown.contains("hush"), "a secret is shown: {shown}");
    }
}
