//! The checker finds each violation that is planted into a run that was in order.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use serde_json::{Value, json};
use tcoder::config::RedisConfig;
use tcoder::flyprovider::{FlyMachine, MachineState};
use tcoder::job::{
    AttemptId, Failure, FailureCode, Input, JobId, JobResult, JobSpec, Ladder, Preset, WorkerId,
};
use tcoder::queue::{Claim, Claimed, Queue, SubmitMode, WorkerRecord};

use super::checker::{Evidence, Report, Violation};
use super::load::{Plan, Way, tiny_clip};
use super::receivers::Received;
use super::remains;
use crate::support::objects::{ObjectServer, client};
use crate::support::process::{bare, eventually, spawn};
use crate::support::redis::{raw, shared};
use crate::support::system::folder;

/// Two completed jobs and a failed one, as a run leaves them.
struct Past {
    config: RedisConfig,
    queue: Queue,
    storage: ObjectServer,
    received: Vec<Received>,
    accepted: Vec<Plan>,
    completions: BTreeMap<JobId, usize>,
    doomed: BTreeSet<String>,
    worker: WorkerId,
}

fn result(key: &str, size: usize) -> JobResult {
    let video =
        json!({"codec": "h264", "width": 64, "height": 36, "frameRate": 10.0, "rotation": 0, "hdr": false});
    serde_json::from_value(json!({
        "outputs": [{
            "quality": "original", "key": key, "container": "mp4", "size": size, "width": 64, "height": 36,
            "codec": "h264", "bitrate": 1, "duration": 0.5,
        }],
        "source": {"format": "mp4", "size": size, "duration": 0.5, "video": video},
        "timings": {"downloadSeconds": 0.0, "transcodeSeconds": 0.0, "uploadSeconds": 0.0},
        "speed": 1.0, "cpuSeconds": 0.1,
    }))
    .unwrap()
}

impl Past {
    async fn new() -> Self {
        let config = shared();
        let queue = Queue::connect(&config).await.unwrap();
        let now = queue.clock().await.unwrap().now();
        let worker = WorkerId("planted-1".into());
        let record = WorkerRecord {
            worker_id: worker.clone(),
            machine_id: "planted".into(),
            version: "0".into(),
            pid: 1,
            started_at: now,
            worker_classes: tcoder::job::WorkerClasses::default(),
            sandbox: None,
        };
        assert!(queue.register(&record, now).await.unwrap());
        let storage = ObjectServer::start().await;
        let (received, accepted, completions, doomed) = Default::default();
        let mut past = Self { config, queue, storage, received, accepted, completions, doomed, worker };
        past.completes().await;
        past.completes().await;
        past.fails().await;
        past
    }

    async fn claimed(&mut self, good: bool) -> Claimed {
        let key = "videos/clip.mp4".parse().unwrap();
        let spec = JobSpec {
            webhook_url: Some("https://example.com/hook".parse().unwrap()),
            ..JobSpec::new(Input::Key(key), Preset::Default, Ladder::default())
        };
        let id = JobId::new();
        self.queue.submit(id, &spec, SubmitMode::Now).await.unwrap();
        let plan = Plan {
            id,
            way: Way::Shared,
            good,
            preset: "default",
            qualities: &[],
            stills: &[],
            max_attempts: 3,
        };
        self.accepted.push(plan);
        let now = self.queue.clock().await.unwrap().now();
        match self.queue.claim(&self.worker, now, false).await.unwrap() {
            Claim::Job(job) => *job,
            other => panic!("{other:?}"),
        }
    }

    async fn put(&self, key: &str, bytes: Vec<u8>) {
        let put = client(&self.storage.config).put_object().bucket("output").key(key);
        put.body(bytes.into()).send().await.unwrap();
    }

    async fn delete(&self, key: &str) {
        client(&self.storage.config).delete_object().bucket("output").key(key).send().await.unwrap();
    }

    fn manifest(id: JobId) -> String {
        format!("outputs/{id}/manifest.json")
    }

    async fn receive(&mut self, AttemptId { job, epoch }: AttemptId, status: &str) {
        let created = self.queue.get(job).await.unwrap().unwrap().timestamps.created_at.unwrap().0;
        let id = format!("msg_{job}_{epoch}_{status}");
        self.received.push(Received { id, job: job.to_string(), status: status.into(), created });
    }

    async fn completes(&mut self) {
        let job = self.claimed(true).await;
        let AttemptId { job: id, epoch } = job.attempt;
        let clip = tiny_clip();
        let key = format!("outputs/{id}/{epoch}/original.mp4");
        let result = result(&key, clip.len());
        self.put(&key, clip).await;
        let manifest = json!({"epoch": epoch, "born": job.born, "result": result});
        self.put(&Self::manifest(id), serde_json::to_vec(&manifest).unwrap()).await;
        self.queue.complete(&job, &result, epoch).await.unwrap();
        self.completions.insert(id, 1);
        self.receive(job.attempt, "completed").await;
    }

    async fn fails(&mut self) {
        let job = self.claimed(false).await;
        let sealed = json!({"epoch": job.attempt.epoch, "born": job.born});
        self.put(&Self::manifest(job.attempt.job), serde_json::to_vec(&sealed).unwrap()).await;
        self.queue.fail(&job, &Failure::new(FailureCode::InvalidMedia, "it is no video")).await.unwrap();
        self.receive(job.attempt, "failed").await;
    }

    async fn check(&self) -> Report {
        let evidence = Evidence {
            queue: &self.queue,
            storage: &self.storage.config,
            received: &self.received,
            accepted: &self.accepted,
            completions: &self.completions,
            doomed: &self.doomed,
            forgot: false,
        };
        evidence.check(10).await
    }

    /// Exactly these are found, each once, and they are counted.
    async fn shows(&self, expected: &[Violation]) {
        let report = self.check().await;
        let found: Vec<_> = report.found.iter().map(|(violation, all)| (*violation, all.len())).collect();
        let expected: Vec<_> = expected.iter().map(|violation| (*violation, 1)).collect();
        assert_eq!(found, expected, "{report:#?}");
        for (violation, _) in expected {
            let name: &str = violation.into();
            assert!(report.figures().contains(&format!("{name} 1 found")), "{}", report.figures());
        }
    }

    /// The key of the first job's only output.
    async fn output(&self) -> String {
        let job = self.queue.get(self.accepted[0].id).await.unwrap().unwrap();
        job.result.unwrap().outputs[0].key.to_string()
    }

    /// Changes the record of the first job.
    fn set(&self, fields: &[(&str, &str)]) {
        let key = format!("{}jobs:status:{}", self.config.prefix, self.accepted[0].id);
        redis::cmd("HSET").arg(key).arg(fields).exec(&mut raw(&self.config)).unwrap();
    }
}

#[tokio::test]
async fn checker_finds_nothing_in_a_past_that_is_in_order() {
    let past = Past::new().await;
    past.shows(&[]).await;
    let report = past.check().await;
    assert_eq!((report.jobs, report.completed, report.decoded), (3, 2, 2));
    assert!(report.figures().starts_with("chaos_jobs 3 jobs\n"), "{}", report.figures());
}

#[tokio::test]
async fn checker_finds_jobs_that_do_not_end_or_have_no_record() {
    let mut past = Past::new().await;
    let id = JobId::new();
    past.accepted.push(Plan { id, ..past.accepted[0].clone() });
    past.shows(&[Violation::Lost]).await;
    past.accepted.pop();
    past.claimed(true).await;
    past.shows(&[Violation::Lost]).await;
}

#[tokio::test]
async fn checker_finds_damaged_outputs() {
    let past = Past::new().await;
    let key = past.output().await;
    past.delete(&key).await;
    let report = past.check().await;
    // It is not there, and it does not play.
    assert_eq!(report.found[&Violation::DamagedOutput].len(), 2, "{report:#?}");

    // It is shorter, and it ends early.
    let clip = tiny_clip();
    past.put(&key, clip[..clip.len() / 2].to_vec()).await;
    assert_eq!(past.check().await.found[&Violation::DamagedOutput].len(), 2);
    // It has the right size, and is no video.
    past.put(&key, vec![7; clip.len()]).await;
    past.shows(&[Violation::DamagedOutput]).await;
    past.put(&key, clip).await;
    past.shows(&[]).await;
    past.delete(&Past::manifest(past.accepted[0].id)).await;
    past.shows(&[Violation::DamagedOutput]).await;
}

#[tokio::test]
async fn checker_finds_objects_that_no_result_names() {
    let mut past = Past::new().await;
    let id = past.accepted[0].id;
    let leftovers = [
        // Of an attempt that was superseded, beside the output that counts, of a worker's start, and of no job.
        format!("outputs/{id}/7/original.mp4"),
        format!("{}.part", past.output().await),
        "probes/a".to_owned(),
        format!("outputs/{}/7/original.mp4", JobId::new()),
    ];
    for key in leftovers {
        past.put(&key, vec![1]).await;
        past.shows(&[Violation::LeftoverObject]).await;
        past.delete(&key).await;
    }
    past.put(&format!("outputs/{id}/7/original.mp4"), vec![1]).await;
    past.doomed.insert(format!("{id}:7"));
    past.shows(&[]).await;
    past.doomed.clear();
    past.delete(&format!("outputs/{id}/7/original.mp4")).await;
    let s3 = client(&past.storage.config);
    s3.create_multipart_upload().bucket("output").key("outputs/a").send().await.unwrap();
    past.shows(&[Violation::LeftoverObject]).await;
}

#[tokio::test]
async fn checker_finds_completed_jobs_that_are_called_failed() {
    let past = Past::new().await;
    past.set(&[("state", "failed"), ("error", r#"{"errorCode":"workerLost","error":"died"}"#)]);
    let report = past.check().await;
    let found: Vec<_> = report.found.keys().copied().collect();
    let expected = [
        Violation::FailedWithManifest,
        // The message said otherwise, and the objects belong to no result any more.
        Violation::MissingWebhook,
        Violation::ContradictingWebhooks,
        Violation::LeftoverObject,
    ];
    assert_eq!(found, expected, "{report:#?}");
}

#[tokio::test]
async fn checker_finds_wrong_verdicts() {
    let mut past = Past::new().await;
    past.accepted[2].good = true;
    past.shows(&[Violation::WrongVerdict]).await;
    past.accepted[2].good = false;
    past.accepted[0].good = false;
    past.shows(&[Violation::WrongVerdict]).await;
}

#[tokio::test]
async fn checker_finds_jobs_that_completed_twice() {
    let mut past = Past::new().await;
    let id = past.accepted[0].id;
    past.completions.insert(id, 2);
    past.shows(&[Violation::DoubleCompleted]).await;
    past.completions.insert(id, 1);
    let again = Received { id: "msg_of_another_attempt".into(), ..past.received[0].clone() };
    past.received.push(again);
    past.shows(&[Violation::DoubleCompleted, Violation::ContradictingWebhooks]).await;
}

#[tokio::test]
async fn checker_finds_webhooks_that_are_missing_or_contradict_the_job() {
    let mut past = Past::new().await;
    // The same message twice is no violation.
    past.received.push(past.received[0].clone());
    past.shows(&[]).await;
    let contrary = Received { status: "failed".into(), ..past.received[0].clone() };
    past.received.push(contrary);
    past.shows(&[Violation::ContradictingWebhooks]).await;
    past.received.pop();
    past.received.retain(|message| message.status != "failed");
    past.shows(&[Violation::MissingWebhook]).await;
}

fn machine(name: &str, state: &str) -> FlyMachine {
    let json: Value = json!({"id": name, "name": name, "state": state, "region": "iad"});
    serde_json::from_value(json).unwrap()
}

#[tokio::test]
async fn remains_finds_files_processes_and_machines() {
    let folder = folder("remains");
    assert_eq!(remains::files(&folder), [""; 0]);
    std::fs::create_dir(folder.join("tcoder-work-abc")).unwrap();
    assert_eq!(remains::files(&folder).len(), 1);

    assert!(remains::processes_of(&folder).is_empty());
    let mut command = bare("sleep");
    command.arg("600").env("WORKER_SCRATCH_DIR", folder.join("scratch")).stdout(Stdio::null());
    let mut process = spawn(command);
    // A process has no environment for a moment after it was started.
    eventually("it is found", || !remains::processes_of(&folder).is_empty()).await;
    let found = remains::processes_of(&folder);
    assert_eq!(found.iter().map(|process| process.pid).collect::<Vec<_>>(), [process.id().unwrap()]);
    process.kill().await.unwrap();
    assert!(remains::processes_of(&folder).is_empty());

    let rest = [machine("a", "stopped"), machine("b", "destroyed"), machine("c", "stopped")];
    assert_eq!(remains::machines(&rest, 2), [""; 0]);
    assert_eq!(remains::machines(&rest, 1).len(), 1);
    assert_eq!(remains::machines(&[machine("a", "started")], 2), ["machine a is started"]);
    assert_eq!(MachineState::Started.to_string(), "started");
}
