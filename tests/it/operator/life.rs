//! The life of a TranscodeJob from the user's perspective.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt as _;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use tcoder::crd::TranscodeJob;
use tokio::sync::{OnceCell, mpsc, watch};

use super::{Site, condition, has_phase, object, site, status};
use crate::support::clips::{clip, half_minute, long, probe};
use crate::support::kube as cluster;
use crate::support::process::all_gone;
use crate::support::system::{PATIENCE, Setup, System, WEBHOOK_SECRET, serve};

#[tokio::test]
async fn kubectl_apply_and_wait_complete_a_job() {
    let site = site("sample").await;
    let key = site.input(clip()).await;
    site.apply(&format!(
        "apiVersion: tcoder.dev/v1alpha1\nkind: TranscodeJob\nmetadata: {{name: film}}\n\
         spec: {{input: {{key: {key}}}, preset: hls, qualities: [360p, 144p], stills: [poster, storyboard]}}\n"
    ))
    .await;
    site.kubectl_ok(&["wait", "--for=condition=Complete", "tj/film", "--timeout=200s"]).await;

    let job = site.phase("film", "Complete").await;
    let status = status(&job);
    assert_eq!((&status["attempts"], &status["progressPercent"]), (&json!(1), &json!(100)));
    assert_eq!(status["jobId"], job.uid().unwrap());
    assert_eq!(status["observedGeneration"], 1);
    assert!(status["machine"].is_string() && status["startTime"].is_string(), "{status:#}");
    assert!(status["completionTime"].is_string() && status["cost"]["machineSeconds"].as_i64() >= Some(1));
    let outputs = status["outputs"].as_array().unwrap();
    let qualities: Vec<_> = outputs.iter().map(|o| o["quality"].as_str().unwrap()).collect();
    assert_eq!(qualities, ["360p", "144p"]);
    for output in outputs {
        let probed = probe(&site.system.output_url(output["key"].as_str().unwrap()));
        let video =
            probed["streams"].as_array().unwrap().iter().find(|s| s["codec_type"] == "video").unwrap();
        assert_eq!((&video["width"], &video["height"]), (&output["width"], &output["height"]));
    }
    for (still, name) in [("poster", "/poster.jpg"), ("storyboard", "/storyboard.vtt")] {
        let key = status[still]["key"].as_str().unwrap();
        assert!(key.ends_with(name) && site.system.has_output(key).await, "{status:#}");
    }
    // The finalizer is removed once the job has finished.
    let job = site.until("film", "free", |job| job.finalizers().is_empty()).await;
    assert!(condition(&job, "Failed").is_none());
    eventually_event(&site, "film", "Completed").await;

    let table = site.kubectl_ok(&["get", "tj", "film"]).await;
    for word in ["PHASE", "PROGRESS", "ATTEMPTS", "Complete", "100"] {
        assert!(table.contains(word), "{table}");
    }
    let all = site.kubectl_ok(&["get", "tcoder"]).await;
    assert!(all.contains("film"), "{all}");
}

async fn eventually_event(site: &Site, name: &str, reason: &str) {
    let wait = async {
        while !site.events(name).await.iter().any(|r| r == reason) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("no Event {reason} of {name}"));
}

#[tokio::test]
async fn transcode_job_for_an_invalid_file_fails_with_its_reason() {
    let site = site("bad-file").await;
    let key = site.input_bytes(b"this is no film".to_vec()).await;
    site.make("film", json!({"input": {"key": key}, "preset": "hls"})).await;
    let (job, reason, message) = site.condition("film", "Failed").await;
    assert_eq!(reason, "InvalidMedia");
    assert!(!message.is_empty());
    let status = status(&job);
    assert_eq!((&status["phase"], &status["attempts"]), (&json!("Failed"), &json!(1)));
    assert!(status["completionTime"].is_null() && condition(&job, "Complete").is_none());
    // For tools such as Argo CD and Flux.
    assert_eq!(condition(&job, "Stalled").unwrap().0, "InvalidMedia");
    eventually_event(&site, "film", "InvalidMedia").await;
}

/// A video by its header, whose frames cannot be decoded.
fn damaged() -> Vec<u8> {
    let mut bytes = std::fs::read(clip()).unwrap();
    let at = |kind: &[u8; 4]| bytes.windows(4).position(|window| window == kind).unwrap();
    let (samples, index) = (at(b"mdat"), at(b"moov"));
    let end = if index > samples { index - 4 } else { bytes.len() };
    bytes[samples + 4..end].fill(0);
    bytes
}

#[tokio::test]
async fn video_that_ffmpeg_cannot_encode_fails_with_the_words_of_ffmpeg() {
    let site = site("damaged").await;
    let key = site.input_bytes(damaged()).await;
    let spec =
        json!({"input": {"key": key}, "preset": "web-optimized", "qualities": ["144p"], "backoffLimit": 1});
    let mut at_once = spec.clone();
    at_once["failurePolicy"] = json!({"rules": [{"action": "FailJob", "errorCodes": ["encodeFailed"]}]});
    site.make("twice", spec).await;
    site.make("once", at_once).await;
    for (name, reason, attempts) in [("twice", "BackoffLimitExceeded", 2), ("once", "EncodeFailed", 1)] {
        let (job, found, message) = site.condition(name, "Failed").await;
        assert_eq!(found, reason, "{message}");
        let status = status(&job);
        assert_eq!(
            (&status["attempts"], &status["lastFailure"]["code"]),
            (&json!(attempts), &json!("encodeFailed"))
        );
        // The cause and what came of it.
        assert!(message.starts_with("FFmpeg failed with exit code "), "{message}");
        assert!(message.contains("NAL unit") && message.contains("; "), "{message}");
        assert_eq!(status["lastFailure"]["message"], message);
        eventually_event(&site, name, reason).await;
    }
}

#[tokio::test]
async fn failure_policy_of_a_transcode_job_decides_about_further_attempts() {
    let site = site("failure-policy").await;
    let spec = |input: Value, action: &str, code: &str| {
        json!({
            "input": input, "qualities": ["144p"], "backoffLimit": 1,
            "failurePolicy": {"rules": [{"action": action, "errorCodes": [code]}]},
        })
    };
    let port = cluster::free_port();
    let nowhere = json!({"url": format!("http://127.0.0.1:{port}/film.mp4")});
    site.make("missing", spec(json!({"key": "films/missing.mp4"}), "Count", "inputNotFound")).await;
    site.make("unreachable", spec(nowhere, "FailJob", "inputUnreachable")).await;
    for (name, reason, attempts) in [("missing", "InputNotFound", 2), ("unreachable", "InputUnreachable", 1)]
    {
        let (job, found, message) = site.condition(name, "Failed").await;
        assert_eq!((&*found, &status(&job)["attempts"]), (reason, &json!(attempts)), "{message}");
    }
    let unknown = json!({"input": {"key": "a.mp4"}, "failurePolicy": {"rules": [{"action": "Count", "errorCodes": ["workerLost"]}]}});
    let refused = site.jobs().create(&PostParams::default(), &object("unknown", unknown)).await;
    let kube::Error::Api(refused) = refused.unwrap_err() else {
        panic!("the API server accepts an unknown code")
    };
    assert_eq!(refused.code, 422, "{refused}");
}

#[tokio::test]
async fn status_contains_an_upload_address_for_the_file_that_was_announced() {
    let site = site("upload").await;
    let film = std::fs::read(clip()).unwrap();
    let upload = json!({"fileName": "a b.mp4", "fileSize": film.len(), "contentType": "video/mp4"});
    site.make("film", json!({"input": {"upload": upload}, "qualities": ["144p"]})).await;
    let job = site.until("film", "an address", |job| status(job)["uploadUrl"].is_string()).await;
    let said = status(&job);
    assert_eq!((&said["phase"], &said["startTime"]), (&json!("Uploading"), &json!(null)));
    let (_, message) = condition(&job, "Reconciling").unwrap();
    assert!(message.ends_with("with the header Content-Type: video/mp4"), "{message}");
    let put = async |media_type: &str, body: Vec<u8>| {
        let put = site.system.http.put(said["uploadUrl"].as_str().unwrap());
        put.header("content-type", media_type).body(body).send().await.unwrap().status()
    };
    assert_eq!(put("text/html", film.clone()).await, 403);
    assert_eq!(put("video/mp4", film[1..].to_vec()).await, 403);
    assert_eq!(put("video/mp4", film).await, 200);
    let job = site.phase("film", "Complete").await;
    assert!(status(&job)["uploadUrl"].is_null());
}

#[tokio::test]
async fn deleting_a_running_transcode_job_stops_its_encode() {
    let site = site("delete").await;
    let key = site.input(half_minute()).await;
    let job = site.make("film", json!({"input": {"key": key}, "preset": "hls", "qualities": ["720p"]})).await;
    let id = job.uid().unwrap();
    site.phase("film", "Running").await;
    let encoders = site.encoders(&id).await;
    // The namespace is deleted with all its objects, and neither is stuck.
    site.cluster.kubectl_ok(&["delete", "namespace", &site.namespace, "--wait=false"]).await;
    site.jobs().delete("film", &DeleteParams::default()).await.unwrap();
    site.gone("film").await;
    all_gone(&encoders).await;
    assert_eq!(site.system.job(&id).await["status"], "cancelled");
}

#[tokio::test]
async fn suspended_job_waits_and_a_running_one_is_stopped() {
    let site = site("suspend").await;
    let key = site.input(half_minute()).await;
    let spec = json!({"input": {"key": key}, "preset": "hls", "qualities": ["720p"], "suspend": true});
    let job = site.make("film", spec).await;
    let id = job.uid().unwrap();
    let (job, reason, _) = site.condition("film", "Suspended").await;
    assert_eq!((reason.as_str(), status(&job)["startTime"].is_null()), ("JobSuspended", true));
    assert_eq!(site.system.get(&format!("/api/jobs/{id}")).await.status, 404);

    site.patch("film", json!({"suspend": false})).await;
    site.phase("film", "Running").await;
    let encoders = site.encoders(&id).await;
    site.patch("film", json!({"suspend": true})).await;
    let job = site.phase("film", "Suspended").await;
    assert!(status(&job)["startTime"].is_null());
    all_gone(&encoders).await;

    site.patch("film", json!({"suspend": false})).await;
    let job = site.phase("film", "Complete").await;
    assert!(condition(&job, "Suspended").is_none());
    assert_eq!(site.job(&job).await["status"], "completed");
    for reason in ["JobSuspended", "JobResumed", "Completed"] {
        eventually_event(&site, "film", reason).await;
    }
}

#[tokio::test]
async fn job_past_active_deadline_seconds_fails() {
    let site = site("deadline").await;
    let key = site.input(&long()).await;
    let spec = json!({
        "input": {"key": key}, "preset": "hls", "qualities": ["720p"], "parallelism": 1, "activeDeadlineSeconds": 1,
    });
    let job = site.make("film", spec).await;
    let (job_after, reason, message) = site.condition("film", "Failed").await;
    assert_eq!(reason, "DeadlineExceeded", "{message}");
    assert!(status(&job_after)["completionTime"].is_null());
    assert_eq!(site.job(&job).await["errorCode"], "deadlineExceeded");
}

#[tokio::test]
async fn finished_job_is_deleted_after_its_ttl() {
    let site = site("ttl").await;
    let key = site.input(clip()).await;
    let spec = json!({"input": {"key": key}, "qualities": ["144p"], "ttlSecondsAfterFinished": 3600});
    site.make("film", spec).await;
    let job = site.phase("film", "Complete").await;
    let key = status(&job)["outputs"][0]["key"].as_str().unwrap().to_owned();
    site.patch("film", json!({"ttlSecondsAfterFinished": 0})).await;
    site.gone("film").await;
    assert!(site.system.has_output(&key).await);
}

/// A namespace whose controller is the only one of its Redis: of several, each may take a delivery of another one's job, and
/// leaves it to the others then.
async fn alone(name: &str) -> Site {
    let system = Setup::default().env("ALLOW_PRIVATE_URLS", "true").start().await;
    Site::on(cluster::bare().await, Box::leak(Box::new(system)), name).await
}

#[tokio::test]
async fn webhook_is_signed_with_the_secret_that_the_job_names() {
    let site = alone("webhook").await;
    let controller = site.controller(&[]);
    controller.ready().await;
    let (out, mut inbox) = mpsc::unbounded_channel();
    let receive = move |headers: axum::http::HeaderMap, body: axum::body::Bytes| {
        let out = out.clone();
        async move { out.send((headers, body)).unwrap() }
    };
    let url = serve(axum::Router::new().route("/hook", axum::routing::post(receive))).await;
    let key = site.input(clip()).await;
    let spec = json!({
        "input": {"key": key}, "qualities": ["144p"],
        "webhook": {"url": format!("{url}/hook"), "secretRef": {"name": "hook"}},
    });
    let job = site.make("film", spec).await;
    // Without its Secret the job waits and reports what is missing.
    let (_, reason, message) = site.condition("film", "Stalled").await;
    assert_eq!(reason, "SecretNotUsable");
    assert!(message.contains("kubectl") && message.contains("create secret generic hook"), "{message}");
    assert_eq!(site.system.get(&format!("/api/jobs/{}", job.uid().unwrap())).await.status, 404);

    let secret = format!("--from-literal=secret={WEBHOOK_SECRET}");
    site.kubectl_ok(&["create", "secret", "generic", "hook", &secret]).await;
    site.phase("film", "Complete").await;
    let told = tokio::time::timeout(PATIENCE, inbox.recv()).await.expect("no webhook comes").unwrap();
    Webhook::new(WEBHOOK_SECRET).unwrap().verify(&told.1, &told.0).expect("the signature is wrong");
    let message: Value = serde_json::from_slice(&told.1).unwrap();
    assert_eq!((&message["type"], &message["data"]["jobId"]), (&json!("job.completed"), &json!(job.uid())));
    // The secret itself is only in its Secret.
    let seen = serde_json::to_string(&site.jobs().get("film").await.unwrap()).unwrap();
    let stored = site.job(&job).await.to_string();
    let bare = WEBHOOK_SECRET.trim_start_matches("whsec_");
    assert!(!seen.contains(bare) && !stored.contains(bare));
    controller.stop().await;
}

/// Whoever can write to Redis can write jobs that name any Secret. What counts is the TranscodeJob as the API server knows
/// it.
#[tokio::test]
async fn forged_record_gets_no_signature() {
    let site = alone("forged").await;
    let controller = site.controller(&[]);
    controller.ready().await;
    let (out, mut inbox) = mpsc::unbounded_channel();
    let receive = move |body: axum::body::Bytes| {
        let out = out.clone();
        async move { out.send(body).unwrap() }
    };
    let url = serve(axum::Router::new().route("/hook", axum::routing::post(receive))).await;
    let secret = format!("--from-literal=secret={WEBHOOK_SECRET}");
    site.kubectl_ok(&["create", "secret", "generic", "hook", &secret]).await;
    let key = site.input(clip()).await;
    let hook = |name: &str| json!({"url": format!("{url}/hook"), "secretRef": {"name": name}});
    let spec = json!({"input": {"key": key}, "qualities": ["144p"]});
    let without = site.make("without", spec.clone()).await;
    site.phase("without", "Complete").await;

    let mut redis = site.system.redis();
    let forge = |redis: &mut redis::Connection, id: &str, state: &str| {
        let record = format!("jobs:status:{id}");
        let (stored, epoch): (String, String) =
            redis::cmd("HMGET").arg(&record).arg(&["spec", "epoch"]).query(redis).unwrap();
        let mut spec: Value = serde_json::from_str(&stored).unwrap();
        spec["webhookUrl"] = json!(format!("{url}/hook"));
        spec["webhookKey"] = json!({"namespace": site.namespace, "name": "hook", "key": "secret"});
        redis::cmd("HSET").arg(&record).arg("spec").arg(spec.to_string()).exec(redis).unwrap();
        let delivery = format!("{id}:{epoch}:{state}");
        redis::cmd("ZADD").arg("webhooks:outbox:kubernetes").arg(0).arg(&delivery).exec(redis).unwrap();
        delivery
    };
    // One of a TranscodeJob that requests no webhook, and one of a job that has no TranscodeJob.
    let by_api = site.system.submit(&json!({"inputKey": key, "outputQualities": ["144p"]})).await;
    site.system.completed(&by_api).await;
    let forged =
        [forge(&mut redis, &without.uid().unwrap(), "completed"), forge(&mut redis, &by_api, "completed")];
    // The controller hears of the deliveries with the next end of a job, whose webhook it signs.
    let mut spec = spec;
    spec["webhook"] = hook("hook");
    let real = site.make("real", spec).await;
    let told = tokio::time::timeout(PATIENCE, inbox.recv()).await.expect("no webhook comes").unwrap();
    let message: Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(message["data"]["jobId"], json!(real.uid()), "a forged record was signed");
    for delivery in forged {
        let tried = async {
            loop {
                let tries: Option<String> =
                    redis::cmd("HGET").arg("webhooks:tries").arg(&delivery).query(&mut redis).unwrap();
                if let Some(tries) = tries {
                    return tries;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let tries = tokio::time::timeout(PATIENCE, tried).await.expect("nobody tries to deliver it");
        assert!(tries.contains("TranscodeJob"), "{tries}");
    }
    assert!(inbox.try_recv().is_err(), "a forged record was signed");
    controller.stop().await;
}

#[tokio::test]
async fn status_follows_changes_made_through_the_api() {
    let site = site("elsewhere").await;
    let key = site.input(half_minute()).await;
    let job = site.make("film", json!({"input": {"key": key}, "preset": "hls", "qualities": ["720p"]})).await;
    let id = job.uid().unwrap();
    site.phase("film", "Running").await;
    assert_eq!(site.system.delete(&format!("/api/jobs/{id}")).await.status, 200);
    let (_, reason, message) = site.condition("film", "Failed").await;
    assert_eq!(reason, "Cancelled", "{message}");
    assert_eq!(site.system.post(&format!("/api/jobs/{id}/retry"), &json!({})).await.status, 200);
    let job = site.phase("film", "Complete").await;
    assert!(condition(&job, "Failed").is_none());
}

#[tokio::test]
async fn each_failed_attempt_is_told_while_the_job_is_retried() {
    let site = site("retried").await;
    let nowhere = format!("http://127.0.0.1:{}/film.mp4", cluster::free_port());
    site.make("film", json!({"input": {"url": nowhere}, "backoffLimit": 1, "qualities": ["144p"]})).await;
    let failed_once = |job: &TranscodeJob| status(job)["lastFailure"]["attempt"] == 1;
    let job = site.until("film", "told about its first attempt", failed_once).await;
    let failure = &status(&job)["lastFailure"];
    assert_eq!(failure["code"], "inputUnreachable", "{failure}");
    let (reason, message) = condition(&job, "Reconciling").unwrap();
    assert_eq!(reason, "InProgress");
    // The next attempt may have begun already.
    let (waits, runs) = (has_phase(&job, "Queued"), has_phase(&job, "Running"));
    assert_eq!(failure["retryTime"].is_string(), waits, "{failure}");
    let words = if waits {
        "attempt 1 of 2 failed: "
    } else {
        "a worker makes attempt 2 of 2; the one before failed: "
    };
    assert!((waits || runs) && message.starts_with(words), "{message}");
    let job = site.phase("film", "Failed").await;
    assert_eq!(status(&job)["lastFailure"]["attempt"], 2);
    eventually_event(&site, "film", "AttemptFailed").await;
    eventually_event(&site, "film", "BackoffLimitExceeded").await;
}

/// The record of a job.
#[derive(Clone)]
struct RedisOf {
    system: &'static System,
    record: String,
}

impl RedisOf {
    /// Number of attempts, counted or not.
    fn tries(&self) -> u32 {
        let mut redis = self.system.redis();
        let counts: (Option<u32>, Option<u32>) =
            redis::cmd("HMGET").arg(&self.record).arg(&["attempt", "ignored"]).query(&mut redis).unwrap();
        counts.0.unwrap_or(0) + counts.1.unwrap_or(0)
    }
}

/// Makes a job whose input is on a server that sends no video, and answers an attempt only when it is told that the Events of
/// all attempts before are there: the pauses between attempts are random, and may be short.
async fn job_without_a_film(site: &Site, mut spec: Value) -> watch::Sender<u32> {
    let (say, told) = watch::channel(0);
    let id = Arc::new(OnceCell::new());
    let url = {
        let (id, told, system) = (Arc::clone(&id), told, site.system);
        let refuse = move || {
            let (id, mut told) = (Arc::clone(&id), told.clone());
            async move {
                let record = RedisOf { system, record: format!("jobs:status:{}", id.get().unwrap()) };
                let attempt = record.tries();
                drop(told.wait_for(|told| *told + 1 >= attempt).await);
                axum::http::StatusCode::SERVICE_UNAVAILABLE
            }
        };
        serve(axum::Router::new().route("/film.mp4", axum::routing::any(refuse))).await
    };
    spec["input"] = json!({"url": format!("{url}/film.mp4")});
    spec["suspend"] = json!(true);
    let job = site.make("film", spec).await;
    id.set(job.uid().unwrap()).unwrap();
    site.patch("film", json!({"suspend": false})).await;
    say
}

async fn notes_of_attempts(site: &Site, count: usize) -> Vec<String> {
    let wait = async {
        loop {
            let notes = site.notes("film").await.into_iter();
            let notes: Vec<String> =
                notes.filter(|(reason, _)| reason == "AttemptFailed").map(|(_, note)| note).collect();
            if notes.len() >= count {
                return notes;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("there are not {count} Events"))
}

#[tokio::test]
async fn each_failed_attempt_has_an_event_with_its_own_words() {
    let site = site("attempts").await;
    let say = job_without_a_film(&site, json!({"backoffLimit": 2, "qualities": ["144p"]})).await;
    for attempt in 1..=2 {
        let notes = notes_of_attempts(&site, attempt).await;
        assert_eq!(notes.len(), attempt, "{notes:?}");
        assert!(notes[attempt - 1].starts_with(&format!("attempt {attempt} failed (")), "{notes:?}");
        say.send(u32::try_from(attempt).unwrap()).unwrap();
    }
    let (_, reason, _) = site.condition("film", "Failed").await;
    assert_eq!(reason, "BackoffLimitExceeded");
    eventually_event(&site, "film", "BackoffLimitExceeded").await;
    // The last attempt has the Event of the job's end.
    let notes = notes_of_attempts(&site, 2).await;
    assert_eq!(notes.len(), 2, "{notes:?}");
    let described = site.kubectl_ok(&["describe", "tj", "film"]).await;
    for note in notes {
        assert!(described.contains(&note), "{note} is not in {described}");
    }
}

#[tokio::test]
async fn failure_that_a_rule_ignores_is_not_counted_and_has_its_event() {
    let site = site("ignored").await;
    let rules = json!([{"action": "Ignore", "errorCodes": ["inputUnreachable"]}]);
    let spec = json!({"backoffLimit": 0, "qualities": ["144p"], "failurePolicy": {"rules": rules}});
    let say = job_without_a_film(&site, spec).await;
    let job = site.until("film", "tried", |job| status(job)["lastFailure"].is_object()).await;
    let now = status(&job);
    assert_eq!((&now["lastFailure"]["ignored"], &now["lastFailure"]["attempt"]), (&json!(1), &json!(0)));
    // The next attempt may have begun already.
    let runs = has_phase(&job, "Running");
    assert!(runs || has_phase(&job, "Queued"), "{now:#}");
    assert_eq!(now["attempts"], i32::from(runs), "{now:#}");
    for ignored in 1..=2 {
        let notes = notes_of_attempts(&site, ignored).await;
        let words = "an attempt that is not counted failed (inputUnreachable): ";
        assert!(notes[ignored - 1].starts_with(words), "{notes:?}");
        say.send(u32::try_from(ignored).unwrap()).unwrap();
    }
    // Without the rule the first attempt would have been the last.
    site.jobs().delete("film", &DeleteParams::default()).await.unwrap();
    site.gone("film").await;
}
