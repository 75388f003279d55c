//! Tests of decisions and statuses, from plain values: every state of a job with every spec, and a named test
//! for each rule.

mod failures;
mod holds;
mod outages;

use kube::Resource as _;
use serde_json::{Value, json};

use super::decide::{Act, Decision, DecisionInput, Look, decide};
use super::events::event_drafts;
use super::status::StatusContext;
use super::submission::Rules;
use crate::config::{Env, StorageConfig};
use crate::controller::conditions::{find, holds, millis, time};
use crate::controller::fleet::MachinePrice;
use crate::controller::kueue::{Hold, Refusal};
use crate::crd::{JobPhase, TranscodeJob, TranscodeJobStatus, condition, reason};
use crate::job::{
    Failure, FailureAction, FailureCode, FailurePolicy, FailureRule, Job, JobId, JobLimits, Millis,
    PartFailure, SplitInfo, State,
};
use crate::net::EgressPolicy;
use crate::queue::{CancelReason, QueueError, SubmitMode};
use crate::storage::urls::UrlSigner;

const NOW: Millis = Millis(1_700_000_000_000);

/// Where outputs can be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Readable {
    InPublic,
    ByTheApi,
    Nowhere,
}

fn links(readable: Readable) -> UrlSigner {
    let env = Env::of(move |name| match name {
        "R2_ENDPOINT" => Some("http://127.0.0.1:9000".into()),
        "R2_PUBLIC_URL" => (readable == Readable::InPublic).then(|| "https://cdn.example.com".into()),
        "R2_INPUT_BUCKET_NAME" => Some("input".into()),
        "R2_OUTPUT_BUCKET_NAME" => Some("output".into()),
        _ => Some("some-text".into()),
    });
    let api = (readable == Readable::ByTheApi).then(|| "https://films.example".parse().unwrap());
    UrlSigner::new(&StorageConfig::read(&env).unwrap(), api).unwrap()
}

const OUTPUT: &str = "outputs/7d444840-9dc0-11d1-b245-5ffdce74fad2/7/360p.mp4";

fn id() -> JobId {
    "7d444840-9dc0-11d1-b245-5ffdce74fad2".parse().unwrap()
}

fn object(spec: Value) -> TranscodeJob {
    let mut all = json!({"input": {"key": "a.mp4"}});
    for (name, value) in spec.as_object().unwrap() {
        all[name] = value.clone();
    }
    let object = json!({
        "apiVersion": "tcoder.dev/v1alpha1", "kind": "TranscodeJob",
        "metadata": {"name": "film", "namespace": "films", "uid": id().to_string(), "generation": 1},
        "spec": all,
    });
    serde_json::from_value(object).unwrap()
}

/// The job that was created from the object.
fn job(object: &TranscodeJob, state: State) -> Job {
    let spec = super::submission::to_submission(object, id(), RULES).unwrap().spec;
    let job = json!({
        "jobId": id().to_string(), "status": state.name(), "attempt": 1, "epoch": 7, "progress": 42.7,
        "worker": "d5e207bced7541-3f2a9c01", "inputKey": "a.mp4",
        "timestamps": {"createdAt": 1_699_999_980_000_i64, "queuedAt": 1_699_999_990_000_i64},
    });
    let mut job = Job { spec, ..serde_json::from_value(job).unwrap() };
    if state.is_terminal() {
        job.timestamps.completed_at = Some(NOW);
    }
    if state == State::Failed {
        job.error = Some(Failure::new(FailureCode::InvalidMedia, "it is no video"));
    }
    if state == State::Completed {
        job.result = Some(result());
    }
    job
}

fn result() -> crate::job::JobResult {
    let result = json!({
        "entries": [{"kind": "hls", "key": OUTPUT.replace("360p.mp4", "master.m3u8")}],
        "outputs": [{
            "quality": "360p", "key": OUTPUT, "container": "mp4", "size": 1000, "width": 640,
            "height": 360, "codec": "h264", "bitrate": 400_000, "duration": 2.0,
        }],
        "source": {
            "format": "mp4", "size": 9, "duration": 2.0,
            "video": {
                "codec": "h264", "width": 1280, "height": 720, "frameRate": 25.0, "rotation": 0, "hdr": false,
            },
        },
        "timings": {"downloadSeconds": 0.5, "transcodeSeconds": 8.25, "uploadSeconds": 0.5},
        "speed": 2.0, "cpuSeconds": 3.0,
    });
    serde_json::from_value(result).unwrap()
}

const RULES: Rules =
    Rules { guard: EgressPolicy::PublicOnly, limits: JobLimits::HIGHEST, tenant_prefixes: false };

struct Case {
    object: TranscodeJob,
    before: TranscodeJobStatus,
    look: Look,
    secret: Option<Result<(), String>>,
    looked_for_upload: bool,
    storage_error: Option<String>,
    mirror: bool,
    now: Millis,
    readable: Readable,
    queue: Option<Hold>,
    refusal: Option<Refusal>,
    is_queue_known: bool,
}

impl Case {
    fn of(spec: Value, look: Look) -> Self {
        let before = TranscodeJobStatus::default();
        let object = object(spec);
        let readable = Readable::InPublic;
        Self {
            object,
            before,
            look,
            secret: None,
            looked_for_upload: false,
            storage_error: None,
            mirror: false,
            now: NOW,
            readable,
            queue: None,
            refusal: None,
            is_queue_known: true,
        }
    }

    fn in_state(spec: Value, state: State) -> Self {
        let mut case = Self::of(spec, Look::Gone);
        case.look = Look::Job(Box::new(job(&case.object, state)));
        case
    }

    fn decide(&self) -> Decision {
        let links = links(self.readable);
        let hold = self.hold();
        let frame = StatusContext {
            object: &self.object,
            before: &self.before,
            id: id(),
            links: &links,
            price: Some(MachinePrice { usd_per_hour: 3600.0, cpus: 2 }),
            now: self.now,
            hold: hold.as_ref(),
            refusal: self.refusal.as_ref(),
            is_queue_known: self.is_queue_known,
        };
        decide(&DecisionInput {
            frame,
            mirror: self.mirror,
            job: self.look.clone(),
            secret: self.secret.clone(),
            looked_for_upload: self.looked_for_upload,
            storage_error: self.storage_error.clone(),
            rules: RULES,
        })
    }

    /// What holds the job back: its user, or what the case says of its queue.
    fn hold(&self) -> Option<Hold> {
        let suspended = self.object.spec.suspend.then(|| Hold {
            reason: reason::SUSPENDED,
            message: "spec.suspend is true".into(),
            stops: true,
            is_stalled: false,
        });
        suspended.or_else(|| self.queue.clone())
    }

    fn act(&self) -> Act {
        match self.decide() {
            Decision::Act(act) => act,
            settled => panic!("{settled:?}"),
        }
    }

    fn status(&self) -> TranscodeJobStatus {
        match self.decide() {
            Decision::Settle { status, .. } => *status,
            Decision::Act(act) => panic!("{act:?}"),
        }
    }

    fn again(&self) -> Option<u64> {
        match self.decide() {
            Decision::Settle { again, .. } => again.map(|d| d.as_secs()),
            Decision::Act(act) => panic!("{act:?}"),
        }
    }

    /// The same case a moment later, after its status was written.
    fn written(mut self) -> Self {
        self.before = self.status();
        self
    }
}

fn none() -> Value {
    json!({})
}

#[test]
fn a_new_object_is_looked_up_and_then_put_into_the_queue() {
    assert_eq!(Case::of(none(), Look::NotYet).act(), Act::Look);
    let Act::Submit(to_submission) = Case::of(none(), Look::Gone).act() else { panic!() };
    assert_eq!((to_submission.start, to_submission.spec.max_attempts), (SubmitMode::Now, 3));
}

/// The action for a job in each state, suspended or not, one line each.
#[test]
fn every_state_with_and_without_suspend() {
    let word = |case: &Case| match case.decide() {
        Decision::Act(act) => format!("{act:?}").split(['(', ' ']).next().unwrap().to_owned(),
        Decision::Settle { status, .. } => format!("{:?}", status.phase.unwrap()),
    };
    let mut table = Vec::new();
    for &state in State::ALL {
        for (suspended, suspend) in [(false, false), (false, true), (true, false), (true, true)] {
            if suspended && state != State::Cancelled {
                continue;
            }
            let mut case = Case::in_state(json!({"suspend": suspend}), state);
            case.looked_for_upload = true;
            if let Look::Job(job) = &mut case.look {
                job.suspended = suspended;
            }
            let so = |is: bool, word: &'static str| if is { word } else { "" };
            table.push(format!("{state}{}{}: {}", so(suspended, "*"), so(suspend, " suspend"), word(&case)));
        }
    }
    assert_eq!(
        table,
        [
            "uploading: Uploading",
            "uploading suspend: Suspended",
            "queued: Queued",
            "queued suspend: Cancel",
            "running: Running",
            "running suspend: Cancel",
            "playable: Running",
            "playable suspend: Cancel",
            "completed: Complete",
            "completed suspend: Complete",
            "failed: Failed",
            "failed suspend: Failed",
            "cancelled: Failed",
            "cancelled suspend: Failed",
            "cancelled*: Redrive",
            "cancelled* suspend: Suspended",
        ]
    );
}

#[test]
fn complete_and_failed_exclude_each_other_and_every_status_is_whole() {
    for &state in State::ALL {
        for suspend in [false, true] {
            let mut case = Case::in_state(json!({"suspend": suspend}), state);
            case.looked_for_upload = true;
            let Decision::Settle { status, .. } = case.decide() else { continue };
            let held = |type_| holds(&status.conditions, type_).is_some();
            assert!(!(held(condition::COMPLETE) && held(condition::FAILED)), "{state}");
            assert_eq!(held(condition::COMPLETE), status.phase == Some(JobPhase::Complete), "{state}");
            assert_eq!(held(condition::FAILED), status.phase == Some(JobPhase::Failed), "{state}");
            assert_eq!(status.completion_time.is_some(), state == State::Completed);
            assert_eq!(status.job_id.as_deref(), Some(&*id().to_string()));
            assert_eq!(status.observed_generation, Some(1));
            for said in &status.conditions {
                assert!(!said.message.is_empty() && !said.reason.is_empty());
                assert!(said.reason.chars().all(|c| c.is_ascii_alphanumeric()), "{}", said.reason);
            }
            let types: std::collections::BTreeSet<_> = status.conditions.iter().map(|c| &c.type_).collect();
            assert_eq!(types.len(), status.conditions.len());
        }
    }
}

#[test]
fn nothing_new_is_nothing_to_write() {
    for &state in State::ALL {
        let mut case = Case::in_state(none(), state);
        case.looked_for_upload = true;
        let mut case = case.written();
        case.now = NOW.plus(1000);
        assert_eq!(case.status(), case.before, "{state}");
        assert_eq!(event_drafts(&case.before, &case.status()), []);
    }
}

#[test]
fn a_completed_job_shows_its_outputs_and_what_it_cost() {
    let status = Case::in_state(none(), State::Completed).status();
    let output = &status.outputs[0];
    assert_eq!((output.quality.as_str(), output.size_bytes, output.width), ("360p", 1000, 640));
    assert_eq!(output.url.as_deref(), Some(&*format!("https://cdn.example.com/{OUTPUT}")));
    let [entry] = &status.entries[..] else { panic!("{:?}", status.entries) };
    assert_eq!(
        (&*entry.kind, entry.url.as_ref()),
        ("hls", Some(&format!("https://cdn.example.com/{}", entry.key)))
    );
    assert_eq!(status.urls_expire_at, None);
    let cost = status.cost.unwrap();
    // 9.25 s at a dollar a second.
    assert_eq!((cost.machine_seconds, cost.usd.as_deref()), (10, Some("9.250000")));
    assert_eq!(status.machine.as_deref(), Some("d5e207bced7541"));
    assert_eq!(status.start_time, Some(time(Millis(1_699_999_990_000))));
}

#[test]
fn job_that_several_machines_have_encoded_costs_its_cpu_time_at_the_price_of_one_cpu() {
    let mut case = Case::in_state(none(), State::Completed);
    let Look::Job(job) = &mut case.look else { panic!("there is a job") };
    let result = job.result.as_mut().unwrap();
    result.cpu_seconds = 100.5;
    result.split = Some(SplitInfo { chunks: 8, whole_because: None });
    let cost = case.status().cost.unwrap();
    // A machine with two CPUs costs a dollar a second.
    assert_eq!((cost.machine_seconds, cost.usd.as_deref()), (101, Some("50.250000")));
    let Look::Job(job) = &mut case.look else { panic!("there is a job") };
    job.result.as_mut().unwrap().split = Some(SplitInfo { chunks: 1, whole_because: None });
    assert_eq!(case.status().cost.unwrap().usd.as_deref(), Some("9.250000"));
}

#[test]
fn outputs_of_a_private_bucket_are_read_below_the_api_and_their_addresses_are_renewed() {
    let completed = || Case::in_state(json!({"ttlSecondsAfterFinished": 864_000}), State::Completed);
    let nowhere = Case { readable: Readable::Nowhere, ..completed() }.status();
    assert_eq!((&nowhere.outputs[0].url, &nowhere.urls_expire_at), (&None, &None));

    let case = Case { readable: Readable::ByTheApi, ..completed() };
    let first = case.status();
    let url = first.outputs[0].url.clone().unwrap();
    assert!(url.starts_with("https://films.example/media/") && url.ends_with("/7/360p.mp4"), "{url}");
    let end = millis(first.urls_expire_at.as_ref().unwrap());
    assert!(end > NOW.plus(86_400_000));
    // It is renewed ten minutes before it expires, even if Redis may have forgotten the job by then.
    let renewal = end.plus(-600_000);
    assert_eq!(case.again(), u64::try_from((renewal.0 - NOW.0) / 1000).ok());
    for look in [Look::NotYet, Look::Gone, Case::in_state(none(), State::Completed).look] {
        let case = || Case { look: look.clone(), before: first.clone(), ..completed() };
        let at = |now| Case { now, readable: Readable::ByTheApi, ..case() }.status();
        assert_eq!(at(renewal.plus(-1)), first);
        let renewed = at(renewal);
        assert_ne!(renewed.outputs[0].url, first.outputs[0].url);
        assert!(millis(renewed.urls_expire_at.as_ref().unwrap()) > renewal.plus(86_400_000));
        assert_eq!(event_drafts(&first, &renewed), []);
        // API_PUBLIC_URL was removed from the settings.
        let gone = Case { readable: Readable::Nowhere, ..case() }.status();
        assert_eq!((&gone.outputs[0].url, &gone.urls_expire_at), (&None, &None));
    }
    // The TTL of the object comes first if it is shorter.
    let short = Case::in_state(json!({"ttlSecondsAfterFinished": 60}), State::Completed);
    assert_eq!(Case { readable: Readable::ByTheApi, ..short }.again(), Some(60));
}

#[test]
fn a_deadline_counts_from_the_start_over_all_attempts() {
    let spec = || json!({"activeDeadlineSeconds": 60});
    let mut case = Case::in_state(spec(), State::Running).written();
    // The job was queued ten seconds ago.
    assert_eq!(case.again(), Some(50));
    case.now = NOW.plus(49_999);
    assert!(matches!(case.decide(), Decision::Settle { .. }));
    case.now = NOW.plus(50_000);
    let Act::Cancel(CancelReason::DeadlineExceeded(failure)) = case.act() else { panic!() };
    assert_eq!(failure.code, FailureCode::DeadlineExceeded);
    // The deadline includes a job that waits for its second attempt, but not one that waits for its upload.
    let mut waits = Case::in_state(spec(), State::Queued).written();
    waits.now = NOW.plus(50_000);
    assert!(matches!(waits.act(), Act::Cancel(CancelReason::DeadlineExceeded(_))));
    let mut uploads = Case::in_state(json!({"activeDeadlineSeconds": 60}), State::Uploading);
    (uploads.now, uploads.looked_for_upload) = (NOW.plus(10_000_000), true);
    assert_eq!(uploads.status().start_time, None);
}

#[test]
fn an_upload_is_looked_for_and_its_address_made_anew_in_time() {
    let upload = || json!({"input": {"upload": {}}});
    let case = || {
        let mut case = Case::of(upload(), Look::Gone);
        case.object.spec.input.key = None;
        case.look = Look::Job(Box::new(job(&case.object, State::Uploading)));
        case
    };
    assert!(matches!(case().act(), Act::LookForUpload(_)));
    let looked = || Case { looked_for_upload: true, ..case() };
    let first = looked().status();
    assert_eq!(first.upload_expires_at, Some(time(NOW.plus(3_600_000))));
    assert_eq!((looked().again(), first.phase), (Some(5), Some(JobPhase::Uploading)));
    let later = |minutes: i64| {
        let case = Case { before: first.clone(), now: NOW.plus(minutes * 60_000), ..looked() };
        (case.status(), case.again())
    };
    assert_eq!(later(49).0.upload_url, first.upload_url);
    assert_ne!(later(51).0.upload_url, first.upload_url);
    // The longer an upload takes, the less often it is looked for.
    assert_eq!((later(1).1, later(30).1, later(90).1), (Some(5), Some(30), Some(120)));
}

#[test]
fn the_end_is_written_before_the_object_goes() {
    for state in [State::Completed, State::Failed] {
        let case = Case::in_state(json!({"ttlSecondsAfterFinished": 0}), state);
        assert!(case.status().phase.unwrap().is_terminal());
        let mut case = case.written();
        assert_eq!(case.act(), Act::Delete, "{state}");
        // This needs no read from Redis and works even if Redis has forgotten the job.
        for look in [Look::NotYet, Look::Gone] {
            case.look = look;
            assert_eq!(case.act(), Act::Delete, "{state}");
        }
        case.object.meta_mut().deletion_timestamp = Some(time(NOW));
        assert!(matches!(case.decide(), Decision::Settle { .. }));
    }
    let case = Case::in_state(json!({"ttlSecondsAfterFinished": 60}), State::Completed).written();
    assert_eq!(case.again(), Some(60));
}

#[test]
fn what_has_ended_stays_so_though_redis_has_forgotten_it() {
    let mut case = Case::in_state(none(), State::Completed).written();
    for look in [Look::NotYet, Look::Gone] {
        case.look = look;
        assert_eq!(case.status(), case.before);
    }
    // An unfinished job is submitted again: Redis has lost it.
    let mut lost = Case::in_state(none(), State::Running).written();
    lost.look = Look::Gone;
    assert!(matches!(lost.act(), Act::Submit(_)));
}

#[test]
fn deadline_of_a_job_that_is_retried_counts_from_its_new_start() {
    let spec = || json!({"activeDeadlineSeconds": 60});
    let failed = Case::in_state(spec(), State::Failed).written();
    let first = failed.before.start_time.clone().unwrap();
    // An hour later it is queued again. The controller may see it only when it runs, or has completed.
    let (queued, now) = (NOW.plus(3_600_000), NOW.plus(3_610_000));
    for state in [State::Queued, State::Running, State::Completed] {
        let mut case = Case { before: failed.before.clone(), now, ..Case::in_state(spec(), state) };
        let Look::Job(job) = &mut case.look else { panic!() };
        job.timestamps.queued_at = Some(queued);
        let status = case.status();
        assert_eq!(status.start_time, Some(time(queued)), "{state}");
        if !state.is_terminal() {
            assert_eq!(case.again(), Some(50), "{state}");
        }
        // From then on it stays, also while the job waits for its second attempt.
        let mut case = case.written();
        let Look::Job(job) = &mut case.look else { panic!() };
        job.timestamps.queued_at = Some(queued.plus(5_000));
        assert_eq!(case.status().start_time, Some(time(queued)), "{state}");
    }
    // One that has not been retried keeps it.
    let mut again = Case::in_state(spec(), State::Failed);
    again.before = failed.before;
    let Look::Job(job) = &mut again.look else { panic!() };
    job.timestamps.queued_at = Some(queued);
    assert_eq!(again.status().start_time, Some(first));
}

#[test]
fn a_secret_is_looked_at_before_the_job_is_queued() {
    let hook = json!({"webhook": {"url": "https://example.com/hook", "secretRef": {"name": "hook"}}});
    let mut case = Case::of(hook, Look::Gone);
    let Act::LookAtSecret(secret) = case.act() else { panic!() };
    assert_eq!((&*secret.namespace, &*secret.name, &*secret.key), ("films", "hook", "secret"));
    case.secret = Some(Err("the Secret hook does not exist".into()));
    let stalled = holds(&case.status().conditions, condition::STALLED).unwrap().clone();
    assert_eq!((&*stalled.reason, case.again()), (reason::SECRET_NOT_USABLE, Some(30)));
    case.secret = Some(Ok(()));
    assert!(matches!(case.act(), Act::Submit(_)));
}

#[test]
fn what_cannot_be_a_job_is_not_tried_again() {
    let case = Case::of(json!({"input": {"key": "../a"}}), Look::Gone);
    assert_eq!((case.status().phase, case.again()), (Some(JobPhase::Pending), None));
}

#[test]
fn a_changed_spec_is_said_and_the_job_goes_on() {
    let mut case = Case::in_state(none(), State::Running);
    case.object.spec.qualities = Some(vec![crate::job::Quality::P144]);
    let status = case.status();
    assert_eq!(holds(&status.conditions, condition::STALLED).unwrap().reason, reason::IMMUTABLE_FIELD);
    assert_eq!(status.phase, Some(JobPhase::Running));
}

#[test]
fn a_mirror_shows_and_does_nothing() {
    for &state in State::ALL {
        let mut case = Case::in_state(json!({"suspend": true}), state);
        case.mirror = true;
        assert!(matches!(case.decide(), Decision::Settle { .. }), "{state}");
    }
    let mut forgotten = Case::of(none(), Look::Gone);
    forgotten.mirror = true;
    assert_eq!(forgotten.act(), Act::Delete);
}
