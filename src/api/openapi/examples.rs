//! An example of each body. Each is parsed into its type and serialised again, so that an example cannot contradict
//! the API.

use std::time::Duration;

use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::super::problem::{Problem, ProblemBody};
use super::super::{
    CreateJobRequest, CreateTokenRequest, CreateUploadRequest, CreateUploadResponse, FleetAnswer,
    IssuedToken, PauseFleet, SignPartsRequest, SignedParts, SystemStatus, TokenList, TokenPermissions,
};
use crate::job::{Job, ReachedLimit, Token};
use crate::queue::{Page, Stats};

const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// A body of this schema, as the content of a media type object.
pub(super) fn media(reference: &Schema) -> Value {
    let mut media = json!({"schema": reference});
    if let Some(example) = example(reference) {
        media["example"] = example;
    }
    media
}

/// The example for the type that this schema belongs to.
pub(super) fn example(reference: &Schema) -> Option<Value> {
    let name = reference.get("$ref")?.as_str()?.rsplit('/').next()?;
    let examples = [
        typed::<CreateUploadRequest>(json!({
            "fileName": "holiday.mov", "fileSize": 7_340_032, "contentType": "video/quicktime", "preset": "hls-adaptive",
            "outputQualities": ["720p", "360p"], "stills": ["poster"],
        })),
        typed::<CreateUploadResponse>(json!({
            "jobId": ID, "status": "uploading", "inputKey": format!("inputs/{ID}/holiday.mov"),
            "uploadUrl": format!("https://storage.example/input/inputs/{ID}/holiday.mov?X-Amz-Signature=0f3c"),
            "contentType": "video/quicktime", "expiresAt": 1_795_838_400_000_i64,
        })),
        typed::<CreateJobRequest>(json!({
            "inputUrl": "https://films.example/holiday.mov", "preset": "web-optimized", "outputQualities": ["360p"],
        })),
        typed::<Job>(job()),
        typed::<Page>(json!({"jobs": [job()], "nextCursor": format!("1795834800000_{ID}")})),
        typed::<SignPartsRequest>(json!({"uploadId": "2~Zq0dGeT", "partNumbers": [1, 2]})),
        typed::<SignedParts>(json!({
            "parts": [
                {"partNumber": 1, "url": address("&partNumber=1")},
                {"partNumber": 2, "url": address("&partNumber=2")},
            ],
            "completeUrl": address(""), "abortUrl": address(""), "expiresAt": 1_795_838_400_000_i64,
        })),
        typed::<Stats>(stats()),
        typed::<SystemStatus>(json!({
            "version": env!("CARGO_PKG_VERSION"), "jobs": stats(),
            "workers": [{
                "workerId": "worker-07-5f1d2c3b", "machineId": "worker-07", "version": env!("CARGO_PKG_VERSION"),
                "pid": 412, "startedAt": 1_795_834_000_000_i64, "state": "running", "jobId": ID,
                "aliveUntil": 1_795_835_000_000_i64, "sandbox": {"state": "full"},
            }],
        })),
        typed::<FleetAnswer>(json!({
            "now": 1_795_834_800_000_i64, "pending": 4, "silent": false,
            "pause": {"since": 1_795_834_700_000_i64, "reason": "a new image"},
        })),
        typed::<PauseFleet>(json!({"reason": "a new image"})),
        typed::<CreateTokenRequest>(json!({
            "name": "films", "scopes": ["submit"], "keyPrefix": "films/", "requestsPerMinute": 600, "openJobs": 50,
        })),
        typed::<TokenPermissions>(json!({"scopes": ["submit", "read"], "jobsPerHour": 100})),
        typed::<Token>(token()),
        typed::<TokenList>(json!({"tokens": [token()]})),
        typed::<IssuedToken>(issued_token()),
    ];
    examples.into_iter().find(|(of, _)| of == name)?.1
}

/// The name of the type's schema, and the example as the type serialises it.
fn typed<T: JsonSchema + DeserializeOwned + Serialize>(example: Value) -> (String, Option<Value>) {
    let read = serde_json::from_value::<T>(example).ok();
    (T::schema_name().into_owned(), read.and_then(|value| serde_json::to_value(value).ok()))
}

fn address(query: &str) -> String {
    format!("https://storage.example/input/inputs/{ID}/holiday.mov?uploadId=2~Zq0dGeT{query}")
}

fn token() -> Value {
    json!({
        "name": "films", "scopes": ["submit"], "keyPrefix": "films/", "requestsPerMinute": 600, "openJobs": 50,
        "createdAt": 1_795_834_800_000_i64,
    })
}

fn issued_token() -> Value {
    let mut token = token();
    token["token"] = "tcoder_0f3c".into();
    token
}

fn stats() -> Value {
    json!({
        "uploading": 1, "pending": 4, "scheduled": 0, "running": 2, "completed": 310, "failed": 3, "cancelled": 1,
        "pendingWebhooks": 0, "oldestPendingMs": 5200, "workers": 2,
    })
}

fn job() -> Value {
    let folder = format!("outputs/{ID}/1795834812345");
    let url = |name: &str| format!("https://storage.example/output/{folder}/{name}?X-Amz-Signature=0f3c");
    json!({
        "jobId": ID, "status": "completed", "inputKey": format!("inputs/{ID}/holiday.mov"), "preset": "web-optimized",
        "outputQualities": ["360p"], "priority": 0, "maxAttempts": 3, "deadlineSeconds": 21_600, "origin": "api",
        "filename": "holiday.mov", "attempt": 1, "epoch": 1_795_834_812_345_i64, "worker": "worker-07-5f1d2c3b",
        "machineId": "worker-07", "progress": 100.0,
        "timestamps": {
            "createdAt": 1_795_834_800_000_i64, "uploadedAt": 1_795_834_811_000_i64, "queuedAt": 1_795_834_811_000_i64,
            "startedAt": 1_795_834_812_345_i64, "completedAt": 1_795_834_830_000_i64,
        },
        "outputs": [{
            "quality": "360p", "key": format!("{folder}/360p.mp4"), "url": url("360p.mp4"), "container": "mp4",
            "size": 1_843_200, "width": 640, "height": 360, "codec": "h264", "audioCodec": "aac", "bitrate": 491_520,
            "duration": 30.0,
        }],
        "source": {
            "format": "mov,mp4,m4a,3gp,3g2,mj2", "size": 7_340_032, "duration": 30.0,
            "video": {
                "codec": "hevc", "width": 1920, "height": 1080, "frameRate": 30.0, "frames": 900, "rotation": 0,
                "hdr": false,
            },
            "audio": {"codec": "aac", "channels": 2, "sampleRate": 48_000},
        },
        "timings": {"downloadSeconds": 0.4, "transcodeSeconds": 16.2, "uploadSeconds": 0.7},
        "speed": 1.9, "cpuSeconds": 58.5,
    })
}

/// An event of a job's event stream.
pub(super) fn event() -> String {
    let job = typed::<Job>(job()).1.unwrap_or_default();
    format!("event: job\nid: 1795834812345-completed\ndata: {job}\n\n")
}

/// The body of a webhook.
pub(super) fn message() -> Value {
    let mut job = typed::<Job>(job()).1.unwrap_or_default();
    for left_out in ["worker", "machineId"] {
        job.as_object_mut().map(|job| job.remove(left_out));
    }
    json!({"type": "job.completed", "timestamp": "2026-11-28T00:20:30.000Z", "data": job})
}

/// A problem with this status.
pub(super) fn problem(status: u16) -> Option<ProblemBody> {
    let problem = match status {
        400 => Problem::malformed("the body is not valid JSON: expected value at line 1 column 1"),
        401 => Problem::unauthorized(),
        403 => Problem::foreign_origin(),
        404 => Problem::no_such_job(),
        409 => Problem::conflict("the job is completed already; there is nothing to cancel"),
        413 => Problem::too_large(),
        415 => Problem::not_json(),
        422 => Problem::field("outputQualities[1]", "there is no `721p`; use `144p`, `240p`, `360p`"),
        429 => Problem::limit_reached(ReachedLimit::JobsPerHour, Duration::from_secs(1800)),
        503 => Problem::unavailable("the job queue does not answer; try again in a few seconds"),
        _ => return None,
    };
    Some(problem.into())
}
